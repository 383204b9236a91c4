#!lua
-- Reserves for each of some requests its worst case from all its budgets, or from none.
-- KEYS: for each claim a budget and its holds, then those of the earlier parts of its window, the oldest first, where it
-- rolls. ARGV: for each request: its id, seconds until its hold expires unsettled, number of claims, and for each claim the
-- seconds that it is kept, the number of earlier parts, the limits in nano-dollars, tokens and requests (-1 where there is
-- none), and the amounts.
-- Returns five numbers for each claim. The first: 0 it fits; 1 it does not fit beside what is spent; 2 nor beside what
-- others hold. The second: how many parts must leave the window, the oldest first, before it fits beside what is spent.
-- Then what is left of each limit, this claim included where it was taken (-1 where there is no limit).
-- A request whose first numbers are all 0 has its reservation.
-- A budget is a hash: `spent` (a vector of dollars, nano-dollars, tokens, requests; see router/ledger/sums.py) and what is
-- held. Its holds are a sorted set of `reservation:nanos:tokens:requests` by the time when they expire.

local now = tonumber(redis.call('TIME')[1])

-- In strings, because a number of Lua's is exact only to 2^53; and there is no '-0' to Redis.
local function negative(number) return number == '0' and number or '-' .. number end

local function hold(budget, nanos, tokens, requests)
  redis.call('HINCRBY', budget, 'held_nanos', nanos)
  redis.call('HINCRBY', budget, 'held_tokens', tokens)
  redis.call('HINCRBY', budget, 'held_requests', requests)
end

local function expire(budget, holds)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', holds, '-inf', now)) do
    redis.call('ZREM', holds, member)
    local nanos, tokens, requests = string.match(member, '(%d+):(%d+):(%d+)$')
    hold(budget, negative(nanos), negative(tokens), negative(requests))
  end
end

local function spent_of(budget)
  local packed = redis.call('HGET', budget, 'spent')
  if not packed then return {0, 0, 0} end
  local dollars, nanos, tokens, requests = struct.unpack('<i8i8i8i8', packed, 2)
  return {dollars * 1e9 + nanos, tokens, requests}
end

local function leaving(parts, spent, at)
  local left = {spent[1], spent[2], spent[3]}
  for gone = 0, #parts do
    local fits = true
    for kind = 1, 3 do
      if gone > 0 then left[kind] = left[kind] - parts[gone][kind] end
      local limit = tonumber(ARGV[at + 1 + kind])
      fits = fits and (limit < 0 or left[kind] + tonumber(ARGV[at + 4 + kind]) <= limit)
    end
    if fits then return gone end
  end
  return #parts
end

local function verdict(key, at)
  local parts, spent, held, result = {}, {0, 0, 0}, {0, 0, 0}, {0, 0, -1, -1, -1}
  for part = tonumber(ARGV[at + 1]), 0, -1 do
    local place = part == 0 and key or key + 2 * (tonumber(ARGV[at + 1]) - part + 1)
    local budget = KEYS[place]
    expire(budget, KEYS[place + 1])
    parts[#parts + 1] = spent_of(budget)
    local holding = redis.call('HMGET', budget, 'held_nanos', 'held_tokens', 'held_requests')
    for kind = 1, 3 do
      spent[kind] = spent[kind] + parts[#parts][kind]
      held[kind] = held[kind] + tonumber(holding[kind] or '0')
    end
    if part > 0 then
      redis.call('EXPIRE', budget, ARGV[at])
      redis.call('EXPIRE', KEYS[place + 1], ARGV[at])
    end
  end
  for kind = 1, 3 do
    local limit, amount = tonumber(ARGV[at + 1 + kind]), tonumber(ARGV[at + 4 + kind])
    if limit >= 0 then
      local left = limit - spent[kind] - held[kind]
      result[2 + kind] = math.max(0, left)
      if spent[kind] + amount > limit then result[1] = 1 end
      if amount > left and result[1] == 0 then result[1] = 2 end
    end
  end
  if result[1] == 1 then result[2] = leaving(parts, spent, at) end
  return result
end

local CLAIM_ARGS = 8

local function take(id, patience, claims, key, at)
  local verdicts, places, fits = {}, {}, true
  for claim = 1, claims do
    local from = at + CLAIM_ARGS * (claim - 1)
    places[claim] = key
    verdicts[claim] = verdict(key, from)
    fits = fits and verdicts[claim][1] == 0
    key = key + 2 + 2 * tonumber(ARGV[from + 1])
  end
  for claim = 1, fits and claims or 0 do
    local budget, holds, from = KEYS[places[claim]], KEYS[places[claim] + 1], at + CLAIM_ARGS * (claim - 1)
    local nanos, tokens, requests = ARGV[from + 5], ARGV[from + 6], ARGV[from + 7]
    hold(budget, nanos, tokens, requests)
    redis.call('ZADD', holds, now + patience, table.concat({id, nanos, tokens, requests}, ':'))
    redis.call('EXPIRE', budget, ARGV[from])
    redis.call('EXPIRE', holds, ARGV[from])
    for kind = 1, 3 do
      local left = verdicts[claim][2 + kind]
      if left >= 0 then verdicts[claim][2 + kind] = left - tonumber(ARGV[from + 4 + kind]) end
    end
  end
  return verdicts, key
end

local answers, key, at = {}, 1, 1
while at <= #ARGV do
  local claims, verdicts = tonumber(ARGV[at + 2]), nil
  verdicts, key = take(ARGV[at], tonumber(ARGV[at + 1]), claims, key, at + 3)
  for _, verdict in ipairs(verdicts) do
    for _, number in ipairs(verdict) do answers[#answers + 1] = number end
  end
  at = at + 3 + CLAIM_ARGS * claims
end
return answers

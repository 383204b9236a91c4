#!lua
-- Reserves for each of some requests its worst case from all its budgets, or from none.
-- KEYS: a budget and its holds for each claim. ARGV: seconds that budgets are kept, then for each request: its id, seconds
-- until its hold expires unsettled, number of claims, and for each claim the limits in nano-dollars, tokens and requests
-- (-1 where there is none), and the amounts.
-- Returns four numbers for each claim. The first: 0 it fits; 1 it does not fit beside what is spent; 2 nor beside what
-- others hold. Then what is left of each limit, this claim included where it was taken (-1 where there is no limit).
-- A request whose first numbers are all 0 has its reservation.
-- A budget is a hash: `spent` (a vector of dollars, nano-dollars, tokens, requests; see router/ledger/sums.py) and what is
-- held. Its holds are a sorted set of `reservation:nanos:tokens:requests` by the time when they expire.

local kept = ARGV[1]
local now = tonumber(redis.call('TIME')[1])

local function hold(budget, sign, nanos, tokens, requests)
  redis.call('HINCRBY', budget, 'held_nanos', sign .. nanos)
  redis.call('HINCRBY', budget, 'held_tokens', sign .. tokens)
  redis.call('HINCRBY', budget, 'held_requests', sign .. requests)
end

local function expire(budget, holds)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', holds, '-inf', now)) do
    redis.call('ZREM', holds, member)
    hold(budget, '-', string.match(member, '(%d+):(%d+):(%d+)$'))
  end
end

local function verdict(budget, at)
  local packed = redis.call('HGET', budget, 'spent')
  local dollars, nanos, tokens, requests = 0, 0, 0, 0
  if packed then dollars, nanos, tokens, requests = struct.unpack('<i8i8i8i8', packed, 2) end
  local held = redis.call('HMGET', budget, 'held_nanos', 'held_tokens', 'held_requests')
  local spent, result = {dollars * 1e9 + nanos, tokens, requests}, {0, -1, -1, -1}
  for kind = 1, 3 do
    local limit, amount = tonumber(ARGV[at + kind]), tonumber(ARGV[at + 3 + kind])
    if limit >= 0 then
      local left = limit - spent[kind] - tonumber(held[kind] or '0')
      result[1 + kind] = math.max(0, left)
      if spent[kind] + amount > limit then result[1] = 1 end
      if amount > left and result[1] == 0 then result[1] = 2 end
    end
  end
  return result
end

local function take(id, patience, claims, key, at)
  local verdicts, fits = {}, true
  for claim = 0, claims - 1 do
    local budget, holds = KEYS[key + 2 * claim], KEYS[key + 2 * claim + 1]
    expire(budget, holds)
    verdicts[claim + 1] = verdict(budget, at + 6 * claim)
    fits = fits and verdicts[claim + 1][1] == 0
  end
  for claim = 0, fits and claims - 1 or -1 do
    local budget, holds, from = KEYS[key + 2 * claim], KEYS[key + 2 * claim + 1], at + 6 * claim + 3
    local nanos, tokens, requests = ARGV[from + 1], ARGV[from + 2], ARGV[from + 3]
    hold(budget, '', nanos, tokens, requests)
    redis.call('ZADD', holds, now + patience, table.concat({id, nanos, tokens, requests}, ':'))
    redis.call('EXPIRE', budget, kept)
    redis.call('EXPIRE', holds, kept)
    for kind = 1, 3 do
      local left = verdicts[claim + 1][1 + kind]
      if left >= 0 then verdicts[claim + 1][1 + kind] = left - tonumber(ARGV[from + kind]) end
    end
  end
  return verdicts
end

local verdicts, key, at = {}, 1, 2
while at <= #ARGV do
  local claims = tonumber(ARGV[at + 2])
  for _, verdict in ipairs(take(ARGV[at], tonumber(ARGV[at + 1]), claims, key, at + 2)) do
    for _, number in ipairs(verdict) do verdicts[#verdicts + 1] = number end
  end
  key, at = key + 2 * claims, at + 3 + 6 * claims
end
return verdicts

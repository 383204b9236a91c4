-- Reserves for each of some requests its worst case from all its budgets, or from none; and, where that leaves much, some
-- spare reservations for requests to come, so that these need not ask.
-- KEYS: for each claim a budget and its holds, then those of the earlier parts of its window, the oldest first, where it
-- rolls. ARGV: for each request: its id, seconds until its hold expires unsettled, how many spare ones are wanted and after
-- how many seconds these expire, number of claims, and for each claim the
-- seconds that it is kept, the number of earlier parts, milliseconds until the oldest part leaves the window (or the window
-- ends, where it does not roll) and between that and the next, the limits in nano-dollars, tokens and requests (-1 where
-- there is none), the amounts, and those of a spare one.
-- Returns for each request how many spare ones there are, and four numbers for each claim. The first: 0 where it fits, else the milliseconds after which it would if nobody else
-- came (-1: never, as the claim alone is too large): once so much of what is spent has left the window and of what is held
-- has left it or expired. Then what is left of each limit, this claim included where it was taken (-1 where there is none).
-- A request whose first numbers are all 0 has its reservation.
-- A budget is a hash: `spent` (a vector of dollars, nano-dollars, tokens, requests; see router/ledger/sums.py) and what is
-- held. Its holds are a sorted set of `reservation:nanos:tokens:requests` by the time when they expire; spare reservations
-- are those of the request's id with `.1`, `.2`, … They are put aside only while all that is held is no more than MOST_HELD
-- of what is not spent. What is asked twice, because its answer was lost (a cluster's client does), is held once.

local time = redis.call('TIME')
local now = tonumber(time[1])
local now_ms = now * 1000 + math.floor(tonumber(time[2]) / 1000)

local function expire(budget, holds)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', holds, '-inf', now)) do release(budget, holds, member) end
end

local function spent_of(budget)
  local packed = redis.call('HGET', budget, 'spent')
  if not packed then return {0, 0, 0} end
  local dollars, nanos, tokens, requests = struct.unpack('<i8i8i8i8', packed, 2)
  return {dollars * 1e9 + nanos, tokens, requests}
end

-- What leaves a claim's window and when, the earliest first: {milliseconds from now, nano-dollars, tokens, requests}.
local leaving_of = {}
local function leaving(parts, at)
  local known = leaving_of[parts[#parts].budget]
  if known then return known end
  local events, leaves = {}, tonumber(ARGV[at + 2])
  for _, part in ipairs(parts) do
    events[#events + 1] = {leaves, part.spent[1], part.spent[2], part.spent[3]}
    local held = redis.call('ZRANGE', part.holds, 0, -1, 'WITHSCORES')
    for i = 1, #held, 2 do
      local nanos, tokens, requests = amounts(held[i])
      local expires = tonumber(held[i + 1]) * 1000 - now_ms
      events[#events + 1] = {math.min(leaves, expires), tonumber(nanos), tonumber(tokens), tonumber(requests)}
    end
    leaves = leaves + tonumber(ARGV[at + 3])
  end
  table.sort(events, function(one, other) return one[1] < other[1] end)
  leaving_of[parts[#parts].budget] = events
  return events
end

local function limit_and_amount(at, kind) return tonumber(ARGV[at + 3 + kind]), tonumber(ARGV[at + 6 + kind]) end

local function fits(used, at)
  for kind = 1, 3 do
    local limit, amount = limit_and_amount(at, kind)
    if limit >= 0 and used[kind] + amount > limit then return false end
  end
  return true
end

local function wait(parts, used, at)
  local left = {used[1], used[2], used[3]}
  for _, event in ipairs(leaving(parts, at)) do
    for kind = 1, 3 do left[kind] = left[kind] - event[kind + 1] end
    if fits(left, at) then return math.max(1, event[1]) end
  end
  return -1
end

local function verdict(key, at)
  local parts, used, result = {}, {0, 0, 0}, {0, -1, -1, -1, unspent = {0, 0, 0}}
  for earlier = tonumber(ARGV[at + 1]), 0, -1 do
    local place = earlier == 0 and key or key + 2 * (tonumber(ARGV[at + 1]) - earlier + 1)
    local part = {budget = KEYS[place], holds = KEYS[place + 1]}
    expire(part.budget, part.holds)
    part.spent = spent_of(part.budget)
    parts[#parts + 1] = part
    local held = redis.call('HMGET', part.budget, 'held_nanos', 'held_tokens', 'held_requests')
    for kind = 1, 3 do
      used[kind] = used[kind] + part.spent[kind] + tonumber(held[kind] or '0')
      result.unspent[kind] = result.unspent[kind] - part.spent[kind]
    end
    if earlier > 0 then
      redis.call('EXPIRE', part.budget, ARGV[at])
      redis.call('EXPIRE', part.holds, ARGV[at])
    end
  end
  for kind = 1, 3 do
    local limit = limit_and_amount(at, kind)
    if limit >= 0 then result[1 + kind] = math.max(0, limit - used[kind]) end
    result.unspent[kind] = limit + result.unspent[kind]
  end
  if not fits(used, at) then result[1] = wait(parts, used, at) end
  return result
end

local CLAIM_ARGS, MOST_HELD, EXACT = 13, 1 / 4, 2 ^ 53

-- How many of the spare reservations that are wanted there is room for in all the budgets.
local function room(wanted, verdicts, at)
  for claim, verdict in ipairs(verdicts) do
    for kind = 1, 3 do
      local amount = tonumber(ARGV[at + CLAIM_ARGS * (claim - 1) + 9 + kind])
      if amount > 0 then wanted = math.min(wanted, math.floor(EXACT / amount)) end
      if amount > 0 and verdict[1 + kind] >= 0 then
        local free = verdict[1 + kind] - (1 - MOST_HELD) * verdict.unspent[kind]
        wanted = math.min(wanted, math.floor(free / amount))
      end
    end
  end
  return math.max(0, wanted)
end

local function put_aside(id, count, expires, budget, holds, verdict, at)
  local held, members = {}, {}
  for n = 1, count do
    members[2 * n - 1] = expires
    members[2 * n] = table.concat({id .. '.' .. n, ARGV[at + 10], ARGV[at + 11], ARGV[at + 12]}, ':')
  end
  local added = redis.call('ZADD', holds, unpack(members))
  for kind = 1, 3 do
    held[kind] = string.format('%.0f', added * tonumber(ARGV[at + 9 + kind]))
    if verdict[1 + kind] >= 0 then verdict[1 + kind] = verdict[1 + kind] - tonumber(held[kind]) end
  end
  hold(budget, held[1], held[2], held[3])
end

local function take(id, patience, wanted, kept_aside, claims, key, at)
  local verdicts, places, granted = {}, {}, true
  for claim = 1, claims do
    local from = at + CLAIM_ARGS * (claim - 1)
    places[claim] = key
    verdicts[claim] = verdict(key, from)
    granted = granted and verdicts[claim][1] == 0
    key = key + 2 + 2 * tonumber(ARGV[from + 1])
  end
  if granted then leaving_of = {} end
  for claim = 1, granted and claims or 0 do
    local budget, holds, from = KEYS[places[claim]], KEYS[places[claim] + 1], at + CLAIM_ARGS * (claim - 1)
    local nanos, tokens, requests = ARGV[from + 7], ARGV[from + 8], ARGV[from + 9]
    local member = table.concat({id, nanos, tokens, requests}, ':')
    if redis.call('ZADD', holds, now + patience, member) == 1 then hold(budget, nanos, tokens, requests) end
    redis.call('EXPIRE', budget, ARGV[from])
    redis.call('EXPIRE', holds, ARGV[from])
    for kind = 1, 3 do
      local left = verdicts[claim][1 + kind]
      if left >= 0 then verdicts[claim][1 + kind] = left - tonumber(ARGV[from + 6 + kind]) end
    end
  end
  local spare = granted and wanted > 0 and room(wanted, verdicts, at) or 0
  for claim = 1, spare > 0 and claims or 0 do
    local budget, holds, from = KEYS[places[claim]], KEYS[places[claim] + 1], at + CLAIM_ARGS * (claim - 1)
    put_aside(id, spare, now + kept_aside, budget, holds, verdicts[claim], from)
  end
  return spare, verdicts, key
end

local answers, key, at = {}, 1, 1
while at <= #ARGV do
  local claims, wanted, kept_aside = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local spare, verdicts
  spare, verdicts, key = take(ARGV[at], tonumber(ARGV[at + 1]), wanted, kept_aside, claims, key, at + 5)
  answers[#answers + 1] = spare
  for _, verdict in ipairs(verdicts) do
    for _, number in ipairs(verdict) do answers[#answers + 1] = number end
  end
  at = at + 5 + CLAIM_ARGS * claims
end
return answers

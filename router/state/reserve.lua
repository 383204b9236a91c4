#!lua
-- Reserves the worst case of one request from all its budgets, or from none.
-- KEYS: a budget and its holds for each claim. ARGV: reservation, seconds until an unsettled hold expires, seconds that
-- budgets are kept, then for each claim: limits in nano-dollars, tokens, requests (-1 where there is none), and the amounts.
-- Returns one number for each claim: 0 it fits; 1 it does not fit beside what is spent; 2 nor beside what others hold.
-- A budget is a hash: `spent` (a vector of dollars, nano-dollars, tokens, requests; see router/ledger/sums.py) and what is
-- held. Its holds are a sorted set of `reservation:nanos:tokens:requests` by the time when they expire.

local id, patience, kept = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local claims = #KEYS / 2
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
  local spent, result = {dollars * 1e9 + nanos, tokens, requests}, 0
  for kind = 1, 3 do
    local limit, amount = tonumber(ARGV[at + kind]), tonumber(ARGV[at + 3 + kind])
    if limit >= 0 then
      if spent[kind] + amount > limit then return 1 end
      if spent[kind] + amount + tonumber(held[kind] or '0') > limit then result = 2 end
    end
  end
  return result
end

local verdicts, fits = {}, true
for claim = 1, claims do
  expire(KEYS[2 * claim - 1], KEYS[2 * claim])
  verdicts[claim] = verdict(KEYS[2 * claim - 1], 6 * claim - 3)
  fits = fits and verdicts[claim] == 0
end
if not fits then return verdicts end

for claim = 1, claims do
  local budget, holds, at = KEYS[2 * claim - 1], KEYS[2 * claim], 6 * claim
  local nanos, tokens, requests = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  hold(budget, '', nanos, tokens, requests)
  redis.call('ZADD', holds, now + patience, table.concat({id, nanos, tokens, requests}, ':'))
  redis.call('EXPIRE', budget, kept)
  redis.call('EXPIRE', holds, kept)
end
return verdicts

-- Gives back what a budget holds for one reservation; nothing where that was given back before, or has expired.
-- A number of Lua's is exact only to 2^53, so amounts stay strings; and there is no '-0' to Redis.

local function negative(number) return number == '0' and number or '-' .. number end

local function amounts(member) return string.match(member, '(%d+):(%d+):(%d+)$') end

local function hold(budget, nanos, tokens, requests)
  redis.call('HINCRBY', budget, 'held_nanos', nanos)
  redis.call('HINCRBY', budget, 'held_tokens', tokens)
  redis.call('HINCRBY', budget, 'held_requests', requests)
end

local function release(budget, holds, member)
  if redis.call('ZREM', holds, member) == 0 then return end
  local nanos, tokens, requests = amounts(member)
  hold(budget, negative(nanos), negative(tokens), negative(requests))
end


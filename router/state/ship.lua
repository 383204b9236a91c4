-- Applies one batch of sums, whole or not at all, exactly once, and gives back what budgets held for its entries.
-- KEYS: applied, recent, touched, then one key per sum, then a budget and its holds per release.
-- ARGV: chapter, first, last, expiry in seconds, length of recent, number of sums, number of releases; (field, packed, the
-- rollup's hour, or empty where the key is none) for each sum; the held member for each release; recent entries.
-- Touched is a sorted set of the hours of rollups by the number of the last write to each, and `last` by that of the last.
-- Returns the number up to which the chapter is applied: `last` when this call did it, else what to send instead.
-- The packed layouts are described in router/ledger/sums.py, held members in reserve.lua.

local chapter, first, last, expiry, kept = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local sums, releases = tonumber(ARGV[6]), tonumber(ARGV[7])
local SUM_KEYS, RELEASE_KEYS, SUM_ARGS = 3, 3 + sums, 7
local RELEASE_ARGS = SUM_ARGS + 3 * sums
local RECENT_ARGS = RELEASE_ARGS + releases

local applied = tonumber(redis.call('HGET', KEYS[1], chapter) or '0')
if first ~= applied + 1 then return applied end

local merged = {}
for i = 1, sums do
  local field, packed = ARGV[SUM_ARGS + 3 * i - 2], ARGV[SUM_ARGS + 3 * i - 1]
  local known = redis.call('HGET', KEYS[SUM_KEYS + i], field)
  merged[i] = known and merge(known, packed) or packed
end

local expiring, write = {}, redis.call('ZINCRBY', KEYS[3], 1, 'last')
for i = 1, sums do
  local key, hour = KEYS[SUM_KEYS + i], ARGV[SUM_ARGS + 3 * i]
  redis.call('HSET', key, ARGV[SUM_ARGS + 3 * i - 2], merged[i])
  if not expiring[key] then
    expiring[key] = true
    redis.call('EXPIRE', key, expiry)
    if hour ~= '' then redis.call('ZADD', KEYS[3], write, hour) end
  end
end
for i = 1, releases do
  release(KEYS[RELEASE_KEYS + 2 * i - 1], KEYS[RELEASE_KEYS + 2 * i], ARGV[RELEASE_ARGS + i])
end
for i = RECENT_ARGS + 1, #ARGV do redis.call('XADD', KEYS[2], 'MAXLEN', '~', kept, '*', 'entry', ARGV[i]) end
redis.call('HSET', KEYS[1], chapter, last)
return last

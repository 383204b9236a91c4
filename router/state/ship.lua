#!lua
-- Applies one batch of sums, whole or not at all, exactly once, and gives back what budgets held for its entries.
-- KEYS: applied, recent, then one key per sum, then a budget and its holds per release.
-- ARGV: chapter, first, last, expiry in seconds, length of recent, number of sums, number of releases; (field, packed) for
-- each sum; the held member for each release; recent entries.
-- Returns the number up to which the chapter is applied: `last` when this call did it, else what to send instead.
-- The packed layouts are described in router/ledger/sums.py, held members in reserve.lua.

local chapter, first, last, expiry, kept = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local sums, releases = tonumber(ARGV[6]), tonumber(ARGV[7])
local SUM_KEYS, RELEASE_KEYS, SUM_ARGS = 2, 2 + sums, 7
local RELEASE_ARGS = SUM_ARGS + 2 * sums
local RECENT_ARGS = RELEASE_ARGS + releases

local applied = tonumber(redis.call('HGET', KEYS[1], chapter) or '0')
if first ~= applied + 1 then return applied end

local function add_numbers(a, b, at, count)
  local out = {}
  while count > 0 do
    local n = math.min(count, 100)
    local format = '<' .. string.rep('i8', n)
    local x, y = {struct.unpack(format, a, at)}, {struct.unpack(format, b, at)}
    for i = 1, n do x[i] = x[i] + y[i] end
    x[n + 1] = nil
    out[#out + 1] = struct.pack(format, unpack(x, 1, n))
    at, count = at + 8 * n, count - n
  end
  return table.concat(out)
end

local function pairs_into(counts, packed, at, length)
  for i = 1, length do
    local bucket, count
    bucket, count, at = struct.unpack('<I2I4', packed, at)
    counts[bucket] = (counts[bucket] or 0) + count
  end
  return at
end

local function add_tallies(a, b)
  local counters = struct.unpack('B', a, 2)
  local at = 3 + 8 * counters
  local histograms = struct.unpack('B', a, at)
  local a_at, b_at = at + 1 + 2 * histograms, at + 1 + 2 * histograms
  local lengths, body = {}, {}
  for h = 1, histograms do
    local counts, order = {}, {}
    a_at = pairs_into(counts, a, a_at, (struct.unpack('<I2', a, at + 2 * h - 1)))
    b_at = pairs_into(counts, b, b_at, (struct.unpack('<I2', b, at + 2 * h - 1)))
    for bucket in pairs(counts) do order[#order + 1] = bucket end
    table.sort(order)
    lengths[h] = struct.pack('<I2', #order)
    for _, bucket in ipairs(order) do body[#body + 1] = struct.pack('<I2I4', bucket, counts[bucket]) end
  end
  return string.sub(a, 1, 2) .. add_numbers(a, b, 3, counters) .. struct.pack('B', histograms)
    .. table.concat(lengths) .. table.concat(body)
end

local function either(a, b)
  local out = {}
  for at = 1, #a, 100 do
    local x, y = {string.byte(a, at, at + 99)}, {string.byte(b, at, at + 99)}
    for i = 1, #x do x[i] = bit.bor(x[i], y[i]) end
    out[#out + 1] = string.char(unpack(x))
  end
  return table.concat(out)
end

local function merge(a, b)
  local kind = string.byte(a)
  if kind ~= string.byte(b) or (kind == 1 and string.byte(a, 2) ~= string.byte(b, 2)) or (kind ~= 1 and #a ~= #b) then
    error('packed sums of different kinds do not merge')
  end
  if kind == 1 then return add_tallies(a, b) end
  if kind == 2 then return string.sub(a, 1, 1) .. add_numbers(a, b, 2, (#a - 1) / 8) end
  return either(a, b)
end

local merged = {}
for i = 1, sums do
  local field, packed = ARGV[SUM_ARGS + 2 * i - 1], ARGV[SUM_ARGS + 2 * i]
  local known = redis.call('HGET', KEYS[SUM_KEYS + i], field)
  merged[i] = known and merge(known, packed) or packed
end

local expiring = {}
for i = 1, sums do
  local key = KEYS[SUM_KEYS + i]
  redis.call('HSET', key, ARGV[SUM_ARGS + 2 * i - 1], merged[i])
  if not expiring[key] then
    expiring[key] = true
    redis.call('EXPIRE', key, expiry)
  end
end
for i = 1, releases do
  local budget, holds, member = KEYS[RELEASE_KEYS + 2 * i - 1], KEYS[RELEASE_KEYS + 2 * i], ARGV[RELEASE_ARGS + i]
  if redis.call('ZREM', holds, member) == 1 then
    local nanos, tokens, requests = string.match(member, '(%d+):(%d+):(%d+)$')
    redis.call('HINCRBY', budget, 'held_nanos', '-' .. nanos)
    redis.call('HINCRBY', budget, 'held_tokens', '-' .. tokens)
    redis.call('HINCRBY', budget, 'held_requests', '-' .. requests)
  end
end
for i = RECENT_ARGS + 1, #ARGV do redis.call('XADD', KEYS[2], 'MAXLEN', '~', kept, '*', 'entry', ARGV[i]) end
redis.call('HSET', KEYS[1], chapter, last)
return last

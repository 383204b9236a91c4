#!lua
-- Applies one batch of sums, whole or not at all, exactly once.
-- KEYS: applied, recent, then one rollup key per sum. ARGV: journal, first, last, expiry in seconds, length of recent,
-- number of sums, then (field, packed) for each sum, then recent entries.
-- Returns the number up to which the journal is applied: `last` when this call did it, else what to send instead.
-- The packed layouts are described in router/ledger/sums.py.

local journal, first, last = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local applied = tonumber(redis.call('HGET', KEYS[1], journal) or '0')
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

local function merge(a, b)
  if string.sub(a, 1, 1) ~= string.sub(b, 1, 1) or (string.byte(a) == 1 and string.byte(a, 2) ~= string.byte(b, 2)) then
    error('packed sums of different kinds do not merge')
  end
  if string.byte(a) == 1 then return add_tallies(a, b) end
  return string.sub(a, 1, 1) .. add_numbers(a, b, 2, (#a - 1) / 8)
end

local sums, merged = tonumber(ARGV[6]), {}
for i = 1, sums do
  local key, field, packed = KEYS[2 + i], ARGV[5 + 2 * i], ARGV[6 + 2 * i]
  local known = redis.call('HGET', key, field)
  merged[i] = known and merge(known, packed) or packed
end

for i = 1, sums do redis.call('HSET', KEYS[2 + i], ARGV[5 + 2 * i], merged[i]) end
local expired = {}
for i = 1, sums do
  local key = KEYS[2 + i]
  if not expired[key] then
    expired[key] = true
    redis.call('EXPIRE', key, ARGV[4])
  end
end
for i = 7 + 2 * sums, #ARGV do redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'entry', ARGV[i]) end
redis.call('HSET', KEYS[1], journal, ARGV[3])
return last

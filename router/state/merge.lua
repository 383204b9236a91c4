-- Merges packed sums as router/ledger/sums.py describes and merges them. The beginning of every script that needs it.

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

local function add_reals(a, b, a_at, b_at)
  local in_a, in_b = string.byte(a, a_at) or 0, string.byte(b, b_at) or 0
  local count, out = math.max(in_a, in_b), {}
  for i = 1, count do
    local x = i <= in_a and struct.unpack('<d', a, a_at + 8 * i - 7) or 0
    local y = i <= in_b and struct.unpack('<d', b, b_at + 8 * i - 7) or 0
    out[i] = struct.pack('<d', x + y)
  end
  return count == 0 and '' or string.char(count) .. table.concat(out)
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
    .. table.concat(lengths) .. table.concat(body) .. add_reals(a, b, a_at, b_at)
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


-- Merges the rollups of a day's hours into that of its first, whole or not at all.
-- KEYS: touched (see ship.lua), the first hour's rollup, then the others'. ARGV: expiry in seconds, the name of the fields
-- that stay in their hour (bitmaps of its seconds), the first hour. Returns how many fields moved.

local moves, merged = {}, {}
for i = 3, #KEYS do
  local fields = redis.call('HGETALL', KEYS[i])
  for at = 1, #fields, 2 do
    local field, packed = fields[at], fields[at + 1]
    if string.sub(field, 1, #ARGV[2]) ~= ARGV[2] then
      local known = merged[field] or redis.call('HGET', KEYS[2], field)
      merged[field] = known and merge(known, packed) or packed
      moves[#moves + 1] = {KEYS[i], field}
    end
  end
end

for field, packed in pairs(merged) do redis.call('HSET', KEYS[2], field, packed) end
for _, move in ipairs(moves) do redis.call('HDEL', move[1], move[2]) end
if #moves > 0 then
  redis.call('EXPIRE', KEYS[2], ARGV[1])
  local write = redis.call('ZINCRBY', KEYS[1], 1, 'last')
  for i = 2, #KEYS do redis.call('ZADD', KEYS[1], write, ARGV[3] + i - 2) end
end
return #moves

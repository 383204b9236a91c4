-- Gives back spare reservations that nobody used (see reserve.lua).
-- KEYS: for each claim a budget and its holds. ARGV: the reservations' id, how many are left, and for each claim
-- `nanos:tokens:requests`.

for claim = 1, #KEYS / 2 do
  for n = 1, tonumber(ARGV[2]) do
    release(KEYS[2 * claim - 1], KEYS[2 * claim], ARGV[1] .. '.' .. n .. ':' .. ARGV[2 + claim])
  end
end

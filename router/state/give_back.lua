-- Gives back spare reservations that nobody used (see reserve.lua).
-- KEYS: for each claim of each group of them a budget and its holds. ARGV: for each group its id, how many are left, the
-- number of claims, and for each claim `nanos:tokens:requests`.

local key, at = 1, 1
while at <= #ARGV do
  local id, left, claims = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  for claim = 1, claims do
    for n = 1, left do release(KEYS[key], KEYS[key + 1], id .. '.' .. n .. ':' .. ARGV[at + 2 + claim]) end
    key = key + 2
  end
  at = at + 3 + claims
end

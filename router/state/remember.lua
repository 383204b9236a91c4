-- Saves sessions.
-- KEYS: one per session. ARGV: as JSON, for each, what to remember and for how many seconds. (One argument, because a
-- client takes longer to write each than to make it.)

for i, told in ipairs(cjson.decode(ARGV[1])) do
  redis.call('SET', KEYS[i], told[1], 'EX', told[2])
end

-- Saves sessions.
-- KEYS: one per session. ARGV: for each, what to remember and for how many seconds.

for i = 1, #KEYS do
  redis.call('SET', KEYS[i], ARGV[2 * i - 1], 'EX', ARGV[2 * i])
end

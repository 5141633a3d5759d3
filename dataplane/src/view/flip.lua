-- Makes a generation that was filled beside the serving one the serving one.
--
-- KEYS  1 header  2 header of the filled generation  3 generations  4 hold
-- ARGV  1 the header as seen  2 the filled generation's as seen  3 the new header
--       4 the retiring generation  5 the new one  6 now, unix ms  7 what the caller wrote into the hold
--
-- Answers {'applied' | 'fenced', the header that stands now}. While the hold is the caller's no batch
-- is applied, so both stand where the caller saw them, at the same number.
local stored = redis.call('GET', KEYS[1]) or ''
if stored ~= ARGV[1] or redis.call('GET', KEYS[2]) ~= ARGV[2] or redis.call('GET', KEYS[4]) ~= ARGV[7] then
    return {'fenced', stored}
end
redis.call('HSET', KEYS[3], ARGV[4], ARGV[6], ARGV[5], '0')
redis.call('SET', KEYS[1], ARGV[3])
redis.call('DEL', KEYS[2], KEYS[4])
return {'applied', ARGV[3]}

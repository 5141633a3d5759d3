-- Replaces a header by another where it still is the one that the caller saw.
--
-- KEYS  1 header
-- ARGV  1 the header as seen ('': none)  2 the new one
--
-- Answers {'applied' | 'fenced', the header that stands now}.
local stored = redis.call('GET', KEYS[1]) or ''
if stored ~= ARGV[1] then return {'fenced', stored} end
redis.call('SET', KEYS[1], ARGV[2])
return {'applied', ARGV[2]}

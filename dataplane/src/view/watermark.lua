-- Keeps the newest watermark, whichever of several projectors brings it.
--
-- KEYS  1 watermark
-- ARGV  1 the record, a newline, unix ms  2 its epoch  3 its time
--
-- Answers 1 where it was newer.
local stored = redis.call('GET', KEYS[1])
if stored then
    local json = string.match(stored, '^[^\n]*')
    local readable, known = pcall(cjson.decode, json)
    if readable and type(known) == 'table' and tonumber(known.epoch) and tonumber(known.time) then
        local epoch, time = tonumber(ARGV[2]), tonumber(ARGV[3])
        if known.epoch > epoch or (known.epoch == epoch and known.time >= time) then return 0 end
    end
end
redis.call('SET', KEYS[1], ARGV[1])
return 1

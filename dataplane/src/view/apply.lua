-- Applies one batch of one partition to one generation.
--
-- KEYS  1 header (of the generation)  2 feed  3 poison  4 hold
-- ARGV  1 run id  2 generation        3, 4 epoch and seq that the batch follows
--       5, 6 epoch and seq it reaches 7 offset of its last record  8 now, unix ms
--       9 the generation's prefix     10 entries of the feed, '0': none is written, no hold is heeded
--       11 '1': ids are indexed       12 '1': an earlier call may have failed midway
--       13 seconds that a tombstone lives
--       14 53 bytes for each change: id raw (16), id (36), '1' where it is a repair
--       15 number of marks, then for each: id, 'seq reason'; then the documents, one for each change
--
-- Answers {'applied' | 'already' | 'hole' | 'fenced' | 'held', header}.
--
-- A script that fails keeps what it wrote. The document is the fence, so all that a change does elsewhere
-- comes before it, and the header last: repeating the call then repairs whatever is missing.

local stored = redis.call('GET', KEYS[1])
if not stored then return {'fenced', ''} end
local generation, epoch_at, history, seq_at, run, rest =
    string.match(stored, '^1 (%d+) (%d+) (%d+) (%d+) %S+ (%S+) (.+)$')
if run ~= ARGV[1] or generation ~= ARGV[2] then return {'fenced', stored} end

local epoch, seq = tonumber(epoch_at), tonumber(seq_at)
local epoch_to, seq_to = tonumber(ARGV[5]), tonumber(ARGV[6])
if epoch > epoch_to or (epoch == epoch_to and seq >= seq_to) then return {'already', stored} end
local epoch_from = tonumber(ARGV[3])
if epoch < epoch_from or (epoch == epoch_from and seq < tonumber(ARGV[4])) then return {'hole', stored} end

local fed = ARGV[10] ~= '0'
if fed and redis.call('EXISTS', KEYS[4]) == 1 then return {'held', stored} end

local prefix, indexed, careful, lifetime, metas = ARGV[9], ARGV[11] == '1', ARGV[12] == '1', ARGV[13], ARGV[14]
local marks = tonumber(ARGV[15])
local first = 16 + 2 * marks
local sub, byte = string.sub, string.byte

local changes, applied, documents, tombstones = {}, {}, {}, {}
local add, remove = {}, {}
local CODES = {'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', '.'}
for i = 0, #metas / 53 - 1 do
    local at = i * 53
    local id = sub(metas, at + 17, at + 52)
    local document = ARGV[first + i]
    local key = prefix .. 'd:' .. id
    local old = redis.call('GETRANGE', key, 0, 16)
    local version, before = sub(document, 1, 16), '-'
    local newer = true
    if old ~= '' then
        local known = sub(old, 1, 16)
        newer = version > known or (version == known and byte(metas, at + 53) == 49)
        before = sub(old, 17, 17)
    end
    if newer then
        local code = sub(document, 17, 17)
        if indexed then
            local raw = sub(metas, at + 1, at + 16)
            if careful then
                for _, other in ipairs(CODES) do
                    if other ~= code then
                        local list = remove[other]
                        if not list then list = {}; remove[other] = list end
                        list[#list + 1] = raw
                    end
                end
            elseif before ~= code and before ~= '-' then
                local list = remove[before]
                if not list then list = {}; remove[before] = list end
                list[#list + 1] = raw
            end
            if code ~= '-' and (careful or before ~= code) then
                local list = add[code]
                if not list then list = {}; add[code] = list end
                list[#list + 1] = '0' -- a number would be printed as a float each time
                list[#list + 1] = raw
            end
        end
        local kind = 'u'
        if code == '-' then
            kind = 'd'
            tombstones[#tombstones + 1] = key
            tombstones[#tombstones + 1] = document
        else
            if before == '-' then kind = 'c' end
            documents[#documents + 1] = key
            documents[#documents + 1] = document
        end
        applied[#applied + 1] = id
        changes[#changes + 1] = id .. version .. kind .. before .. code
    end
end

if fed then
    local from = epoch == epoch_to and string.format('%.0f', seq + 1) or '1'
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[10], '*',
        'e', ARGV[5], 'f', from, 't', ARGV[6], 'k', table.concat(changes))
end
for code, ids in pairs(remove) do redis.call('ZREM', prefix .. 'x:' .. code, unpack(ids)) end
for code, ids in pairs(add) do redis.call('ZADD', prefix .. 'x:' .. code, unpack(ids)) end
if #documents > 0 then redis.call('MSET', unpack(documents)) end
for i = 1, #tombstones, 2 do redis.call('SET', tombstones[i], tombstones[i + 1], 'EX', lifetime) end
if #applied > 0 and redis.call('EXISTS', KEYS[3]) == 1 then redis.call('HDEL', KEYS[3], unpack(applied)) end
for i = 0, marks - 1 do redis.call('HSET', KEYS[3], ARGV[16 + 2 * i], ARGV[17 + 2 * i]) end

local ready, partitions, base = string.match(rest, '^([01]) (%d+) %d+ (.+)$')
local header = table.concat({'1', generation, ARGV[5], history, ARGV[6], ARGV[7], run, ready, partitions, ARGV[8], base}, ' ')
redis.call('SET', KEYS[1], header)
return {'applied', header}

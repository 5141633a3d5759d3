-- Ids out of one partition's indexes, set by set; the caller merges them.
-- KEYS: the partition's header, then index sets, in the order of their groups.
-- ARGV: the most ids to take of a set, 1 for newest first, then for each set its group and its bound.
-- Returns the header, then an array of ids for each set. Once the groups so far hold enough, sets of
-- the groups behind them are left out: nothing of theirs can come on the page.
local most, newest_first = tonumber(ARGV[1]), ARGV[2] == '1'
local out = { redis.call('GET', KEYS[1]) }
local count, group = 0, nil
for i = 2, #KEYS do
  local mine, bound = ARGV[i * 2 - 1], ARGV[i * 2]
  if mine ~= group then
    if count >= most then break end
    group = mine
  end
  local ids
  if newest_first then
    ids = redis.call('ZREVRANGEBYLEX', KEYS[i], bound, '-', 'LIMIT', 0, most)
  else
    ids = redis.call('ZRANGEBYLEX', KEYS[i], bound, '+', 'LIMIT', 0, most)
  end
  count = count + #ids
  out[i] = ids
end
return out

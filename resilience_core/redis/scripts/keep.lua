-- Changes entries of a shared store, and tells everybody.
-- KEYS[1]  as for entries.lua
-- ARGV     the era that the writer knows ('' for none), '1' to begin a new one, the name that a new one gets,
--          milliseconds to live, most entries, most bytes, channel, how many fields are dropped, these fields, then
--          field and JSON of each entry
-- Answers  {1, era, changes before, changes after, {fields for which there was no room}}, {0} for another era
local era = redis.pcall('HGET', KEYS[1], 'era')
if type(era) == 'table' then
  if not string.find(era['err'], 'WRONGTYPE', 1, true) then return era end
  era = false
end
local anew = ARGV[2] == '1' or not era
if not anew and era ~= ARGV[1] then return {0} end
if anew then
  redis.call('DEL', KEYS[1])
  era = ARGV[3]
  redis.call('HSET', KEYS[1], 'era', era)
end
local before = tonumber(redis.call('HGET', KEYS[1], 'changes') or 0) or 0
local after = before + 1
redis.call('HSET', KEYS[1], 'changes', string.format('%d', after))
local first = 9 + tonumber(ARGV[8])
for at = 9, first - 1 do redis.call('HDEL', KEYS[1], ARGV[at]) end

local all, sizes, entries, size = redis.call('HGETALL', KEYS[1]), {}, 0, 0
for at = 1, #all, 2 do
  if all[at] ~= 'era' and all[at] ~= 'changes' then
    sizes[all[at]] = #all[at] + #all[at + 1]
    entries, size = entries + 1, size + sizes[all[at]]
  end
end
local refused = {}
for at = first, #ARGV, 2 do
  local field, text = ARGV[at], string.format('%d:', after) .. ARGV[at + 1]
  local old = sizes[field]
  local more = #field + #text - (old or 0)
  if size + more > tonumber(ARGV[6]) or (not old and entries >= tonumber(ARGV[5])) then
    refused[#refused + 1] = field
    redis.call('HDEL', KEYS[1], field)  -- what was there before is out of date
  else
    size = size + more
    if not old then entries = entries + 1 end
    redis.call('HSET', KEYS[1], field, text)
  end
end
local lives = tonumber(ARGV[4])
if redis.call('PTTL', KEYS[1]) < lives then redis.call('PEXPIRE', KEYS[1], lives) end
redis.call('PUBLISH', ARGV[7], era .. ':' .. string.format('%d', after))
return {1, era, before, after, refused}

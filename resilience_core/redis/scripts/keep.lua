-- Changes entries of a shared store, and tells everybody. Costs as much as there are changes, whatever the store holds.
-- KEYS[1]  as for entries.lua
-- KEYS[2]  as for entries.lua, but for lines that are too long or too old. When `state` is not of this moment, it was not
--          written here: then everything is counted anew, as also now and then, and readers who are behind read all.
-- ARGV     the era that the writer knows ('' for none), '1' to begin a new one, the name that a new one gets,
--          milliseconds to live, most entries, most bytes, channel, how many fields are dropped, these fields, then
--          field and JSON of each entry
-- Answers  {1, era, changes before, changes after, {fields for which there was no room}}, {0} for another era
-- In a log, in a line (what a member says at once fits, see `SAID_AT_ONCE`), changes from one count to the next.
local LINES, FIELDS, COUNTED = 256, 256, 1024
local era = redis.pcall('HGET', KEYS[1], 'era')
if type(era) == 'table' then
  if not string.find(era['err'], 'WRONGTYPE', 1, true) then return era end
  era = false
end
local before = era and redis.call('HGET', KEYS[1], 'changes')
if era and (#era > 64 or not before or #before > 15 or not string.match(before, '^%d+$')) then
  era = false  -- nobody can read it
end
local anew = ARGV[2] == '1' or not era
if not anew and era ~= ARGV[1] then return {0} end
if anew then
  redis.call('DEL', KEYS[1], KEYS[2])
  era, before = ARGV[3], 0
  redis.call('HSET', KEYS[1], 'era', era)
end
before = tonumber(before)
local after = before + 1
redis.call('HSET', KEYS[1], 'changes', string.format('%d', after))

local entries, size = 0, 0
if not anew then
  local state, ours = redis.pcall('HGET', KEYS[2], 'state'), era .. ':' .. string.format('%d', before) .. ':'
  local a, b
  if type(state) == 'string' and #state < 120 and string.sub(state, 1, #ours) == ours then
    a, b = string.match(string.sub(state, #ours + 1), '^(%d+):(%d+)$')
  end
  if a and after % COUNTED ~= 0 then
    entries, size = tonumber(a), tonumber(b)
  else
    redis.call('DEL', KEYS[2])
    local all = redis.call('HGETALL', KEYS[1])
    for at = 1, #all, 2 do
      if all[at] ~= 'era' and all[at] ~= 'changes' then
        entries, size = entries + 1, size + #all[at] + #all[at + 1]
      end
    end
  end
end

local touched = {}
local first = 9 + tonumber(ARGV[8])
local function drop(field, old)
  if old then
    redis.call('HDEL', KEYS[1], field)
    entries, size = entries - 1, size - #field - #old
  end
  touched[#touched + 1] = field
end
for at = 9, first - 1 do drop(ARGV[at], redis.call('HGET', KEYS[1], ARGV[at])) end
local refused = {}
for at = first, #ARGV, 2 do
  local field, text = ARGV[at], string.format('%d:', after) .. ARGV[at + 1]
  local old = redis.call('HGET', KEYS[1], field)
  local more = old and #text - #old or #field + #text
  if size + more > tonumber(ARGV[6]) or (not old and entries >= tonumber(ARGV[5])) then
    refused[#refused + 1] = field
    drop(field, old)  -- what was there before is out of date
  else
    size = size + more
    if not old then entries = entries + 1 end
    redis.call('HSET', KEYS[1], field, text)
    touched[#touched + 1] = field
  end
end

if #touched <= FIELDS then redis.call('HSET', KEYS[2], string.format('%d', after), table.concat(touched, ',')) end
redis.call('HDEL', KEYS[2], string.format('%d', after - LINES))
redis.call('HSET', KEYS[2], 'state', string.format('%s:%d:%d:%d', era, after, math.max(0, entries), math.max(0, size)))
local lives = tonumber(ARGV[4])
for at = 1, 2 do
  if redis.call('PTTL', KEYS[at]) < lives then redis.call('PEXPIRE', KEYS[at], lives) end
end
redis.call('PUBLISH', ARGV[7], era .. ':' .. string.format('%d', after))
return {1, era, before, after, refused}

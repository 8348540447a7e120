-- The entries of a shared store that have changed since somebody looked.
-- KEYS[1]  a hash: field -> "<change>:<JSON>", "era" -> a random name, "changes" -> how many there were in this era
-- ARGV     the era and the number of changes that the reader knows, most entries, most bytes
-- Answers  {era, changes} if that is all there is to know, else with {all fields}, {field, JSON, ...};
--          false in place of the era for none, and an error's text in place of the fields where it is not as it should be
local era = redis.pcall('HGET', KEYS[1], 'era')
if type(era) == 'table' then
  if not string.find(era['err'], 'WRONGTYPE', 1, true) then return era end
  return {false, 0, 'it holds another type'}
end
if not era then return {false, 0, {}, {}} end
local changes = redis.call('HGET', KEYS[1], 'changes')
if #era > 64 or not changes or #changes > 15 or not string.match(changes, '^%d+$') then
  return {false, 0, 'its era cannot be read'}
end
changes = tonumber(changes)
local since = -1
if era == ARGV[1] then
  since = tonumber(ARGV[2])
  if since == changes then return {era, changes} end
end
local all = redis.call('HGETALL', KEYS[1])
local fields, changed, size = {}, {}, 0
for at = 1, #all, 2 do
  local field, text = all[at], all[at + 1]
  if field ~= 'era' and field ~= 'changes' then
    size = size + #field + #text
    fields[#fields + 1] = field
    local change, json = string.match(text, '^(%d+):(.*)$')
    if not change or tonumber(change) > since then
      changed[#changed + 1] = field
      changed[#changed + 1] = json or ''
    end
  end
end
if #fields > tonumber(ARGV[3]) or size > tonumber(ARGV[4]) then
  return {era, changes, 'it holds more than max_entries or max_bytes'}
end
return {era, changes, fields, changed}

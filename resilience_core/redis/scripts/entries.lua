-- The entries of a shared store that have changed since somebody looked.
-- KEYS[1]  a hash: field -> "<change>:<JSON>", "era" -> a random name, "changes" -> how many there were in this era
-- KEYS[2]  its log, a hash: number of a change -> "<field>,<field>,...", those that it touched, for the latest changes;
--          "state" -> "<era>:<changes>:<entries>:<bytes>". Who was away for longer than it goes back reads everything.
-- ARGV     the era and the number of changes that the reader knows, most entries, most bytes
-- Answers  {era, changes} if that is all there is to know, else with {field, "<change>:<JSON>", ...} of those that have
--          changed and {fields that are gone}, or with the whole hash; false in place of the era for none, and an
--          error's text in place of the fields where it is not as it should be
local LINES, LONGEST = 256, 16384
local era = redis.pcall('HGET', KEYS[1], 'era')
if type(era) == 'table' then
  if not string.find(era['err'], 'WRONGTYPE', 1, true) then return era end
  return {false, 0, 'it holds another type'}
end
if not era then return {false, 0} end
local changes = redis.call('HGET', KEYS[1], 'changes')
if #era > 64 or not changes or #changes > 15 or not string.match(changes, '^%d+$') then
  return {false, 0, 'its era cannot be read'}
end
changes = tonumber(changes)
local since = -1
if era == ARGV[1] and tonumber(ARGV[2]) <= changes then
  since = tonumber(ARGV[2])
  if since == changes then return {era, changes} end
end
local most, room = tonumber(ARGV[3]), tonumber(ARGV[4])

-- By the log: false where it does not tell, or cannot be trusted.
local function by_log()
  if since < 0 or changes - since > LINES then return false end
  local state, ours = redis.pcall('HGET', KEYS[2], 'state'), era .. ':' .. string.format('%d', changes) .. ':'
  if type(state) ~= 'string' or string.sub(state, 1, #ours) ~= ours then return false end
  local seen, count, size, changed, gone = {}, 0, 0, {}, {}
  for change = since + 1, changes do
    local line = redis.call('HGET', KEYS[2], string.format('%d', change))
    if not line or #line > LONGEST then return false end
    for field in string.gmatch(line, '[^,]+') do
      if not seen[field] and field ~= 'era' and field ~= 'changes' then
        seen[field], count = true, count + 1
        local text = redis.call('HGET', KEYS[1], field)
        size = size + (text and #field + #text or 0)
        if count > most or size > room then return false end  -- to read all is no more
        if text then
          changed[#changed + 1] = field
          changed[#changed + 1] = text
        else
          gone[#gone + 1] = field
        end
      end
    end
  end
  return {era, changes, changed, gone}
end
local told = by_log()
if told then return told end

local all, size = redis.call('HGETALL', KEYS[1]), 0
for at = 1, #all do size = size + #all[at] end
size = size - #era - #string.format('%d', changes) - 10  -- without `era` and `changes`
if #all / 2 - 2 > most or size > room then
  return {era, changes, 'it holds more than max_entries or max_bytes'}
end
return {era, changes, all}

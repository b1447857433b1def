-- The ledger's transactions on Redis: the same as ledger_sql.py, in the server's time.
--
-- KEYS[1] is the prefix with the hash tag, ARGV: operation, time ('' = the server's), arguments as JSON. Amounts are
-- doubles, exact to 2^53; they leave as text, since Lua prints no more than 14 digits by itself.
--   c:NAME:START  counter {used, spent, warned}     h:ID  reservation {open, at, taken, row, target}
--   due           ids by expiry                     rows  id -> EPOCH|JSON      at:EPOCH  ids by time
--   b:TARGET      breaker, JSON                     x:ID  a reservation that may not be made any more
local P, now, arg = KEYS[1] .. ':', tonumber(ARGV[2]), cjson.decode(ARGV[3])
local DAY = 86400
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local function int(number) return string.format('%.0f', number) end
local function exact(number) return string.format('%.6f', number) end

-- Year, month and day of a day number; the proleptic calendar counted from 1 March 0000, whose year ends in February.
local function civil(days)
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return yoe + era * 400 + (month <= 2 and 1 or 0), month, doy - math.floor((153 * mp + 2) / 5) + 1
end

local function month_bounds()
  local today = math.floor(now / DAY)
  local year, month, day = civil(today)
  local lengths = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}
  local leap = month == 2 and year % 4 == 0 and (year % 100 ~= 0 or year % 400 == 0)
  local first = today - day + 1
  return first * DAY, (first + lengths[month] + (leap and 1 or 0)) * DAY
end

-- `length` in seconds; 0 has no end, -1 is a calendar month.
local function bounds(length)
  if length == 0 then return 0, nil end
  if length == -1 then return month_bounds() end
  local start = math.floor(now / length) * length
  return start, start + length
end

local function counter(charge)
  local start, ends = bounds(charge.length)
  local key = P .. 'c:' .. charge.name .. ':' .. int(start)
  local row = redis.call('HMGET', key, 'used', 'spent', 'warned')
  return {key = key, ends = ends, used = tonumber(row[1] or 0), spent = tonumber(row[2] or 0),
          warned = tonumber(row[3] or 0)}
end

local function look(charges)
  local found = {}
  for n, charge in ipairs(charges) do found[n] = counter(charge) end
  return found
end

local function levels(found)
  local out = {}
  for n, item in ipairs(found) do
    out[n] = {int(item.used), int(item.spent), item.ends and int(item.ends) or '', int(item.warned)}
  end
  return out
end

local function erase(id)
  local old = redis.call('HGET', P .. 'rows', id)
  if old then redis.call('ZREM', P .. 'at:' .. old:match('^%d+'), id) end
end

local function write(id, at, row)
  erase(id)
  local epoch = redis.call('GET', P .. 'epoch') or '0'
  redis.call('HSET', P .. 'rows', id, epoch .. '|' .. row)
  redis.call('ZADD', P .. 'at:' .. epoch, exact(at), id)
end

local function correct(key, used, spent)
  if redis.call('EXISTS', key) == 0 then return end
  redis.call('HINCRBY', key, 'used', int(used))
  redis.call('HINCRBY', key, 'spent', int(spent))
end

local function expire()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', exact(now))) do
    local key = P .. 'h:' .. id
    local hold = redis.call('HMGET', key, 'at', 'taken', 'row')
    local spent = {}
    for _, item in ipairs(cjson.decode(hold[2])) do
      if item[3]:match('|parallel|[^|]*$') then  -- lent: it is given back
        correct(item[1], -tonumber(item[2]), 0)
      else
        correct(item[1], 0, tonumber(item[2]))
        spent[#spent + 1] = item
      end
    end
    redis.call('HSET', key, 'open', '0', 'taken', #spent == 0 and '[]' or cjson.encode(spent))
    redis.call('EXPIRE', key, DAY)
    redis.call('ZREM', P .. 'due', id)
    write(id, tonumber(hold[1]), hold[3])
  end
end

-- Two limits on one counter take from it once.
local function take(charges, found, amount_of)
  local taken, seen = {}, {}
  for n, charge in ipairs(charges) do
    local key = found[n].key
    if not seen[key] then
      seen[key] = true
      redis.call('HINCRBY', key, 'used', int(amount_of(charge)))
      redis.call('HSETNX', key, 'spent', '0')
      redis.call('EXPIREAT', key, int((found[n].ends or math.floor(now) + 29 * DAY) + DAY))
      taken[#taken + 1] = {key, int(amount_of(charge)), charge.name}
    end
  end
  return taken
end

-- Note that a threshold is reported.
local function remember(charges, found)
  for n, charge in ipairs(charges) do
    for _, mark in ipairs(charge.marks) do
      if found[n].warned < mark and mark <= found[n].spent then
        redis.call('HSET', found[n].key, 'warned', int(found[n].spent))
      end
    end
  end
end

-- The caller computes a breaker's next record from the one that it knows of. Should that have changed, it is told the
-- present one and nothing else happens.
local function stale()
  if not arg.breaker then return nil end
  local record = redis.call('GET', P .. 'b:' .. arg.breaker.target) or ''
  return record ~= arg.breaker.old and {stale = record, now = exact(now)} or nil
end

local function keep()
  if not arg.breaker or arg.breaker.new == arg.breaker.old then return end
  local key = P .. 'b:' .. arg.breaker.target
  if arg.breaker.new == '' then redis.call('DEL', key) else redis.call('SET', key, arg.breaker.new) end
end

local function free(target, id)
  local record = redis.call('GET', P .. 'b:' .. target)
  local decoded = record and cjson.decode(record)
  if not decoded or not decoded.probes[id] then return end
  decoded.probes[id] = nil
  redis.call('SET', P .. 'b:' .. target, cjson.encode(decoded))
end

local operations = {}

function operations.reserve()
  if redis.call('EXISTS', P .. 'h:' .. arg.id, P .. 'x:' .. arg.id) > 0 then return {levels = {}} end
  local changed = stale()
  if changed then return changed end
  expire()
  local found = look(arg.charges)
  local reply = {levels = levels(found)}
  remember(arg.charges, found)
  for n, charge in ipairs(arg.charges) do
    if charge.refuses and found[n].used + charge.amount > charge.limit then return reply end
  end
  local taken = take(arg.charges, found, function(charge) return charge.amount end)
  redis.call('HSET', P .. 'h:' .. arg.id, 'open', '1', 'at', exact(now), 'taken', cjson.encode(taken), 'row', arg.row,
             'target', arg.target)
  redis.call('ZADD', P .. 'due', exact(now + arg.ttl_s), arg.id)
  keep()
  return reply
end

local function held(id)
  local hold = redis.call('HMGET', P .. 'h:' .. id, 'open', 'at', 'taken')
  if hold[1] then return hold[1] == '1' and 'open' or 'expired', tonumber(hold[2]), cjson.decode(hold[3]) end
  if redis.call('HEXISTS', P .. 'rows', id) == 1 then return 'settled' end
  return 'unknown', now, take(arg.charges, look(arg.charges), function() return 0 end)
end

function operations.settle()
  local changed = stale()
  if changed then return changed end
  local was, at, taken = held(arg.id)
  if was == 'settled' then return {was = was, levels = {}} end
  local true_amounts = {}
  for _, charge in ipairs(arg.charges) do true_amounts[charge.name] = charge.amount end
  for _, item in ipairs(taken) do
    local old, new = tonumber(item[2]), true_amounts[item[3]] or 0
    correct(item[1], new - old, was == 'expired' and new - old or new)
  end
  redis.call('DEL', P .. 'h:' .. arg.id)
  redis.call('ZREM', P .. 'due', arg.id)
  write(arg.id, at, arg.row)
  keep()
  local found = look(arg.charges)
  remember(arg.charges, found)
  return {was = was, levels = levels(found)}
end

-- Its caller has left before hearing of it: one that is still on its way shall take nothing when it arrives.
function operations.release()
  local key = P .. 'h:' .. arg.id
  redis.call('SET', P .. 'x:' .. arg.id, '1', 'EX', DAY)
  local hold = redis.call('HMGET', key, 'open', 'taken', 'target')
  if not hold[1] then return {} end
  for _, item in ipairs(cjson.decode(hold[2])) do
    local amount = tonumber(item[2])
    correct(item[1], -amount, hold[1] == '1' and 0 or -amount)
  end
  redis.call('DEL', key)
  redis.call('ZREM', P .. 'due', arg.id)
  erase(arg.id)
  redis.call('HDEL', P .. 'rows', arg.id)
  free(hold[3] or '', arg.id)
  return {}
end

function operations.heartbeat()
  local open = redis.call('HGET', P .. 'h:' .. arg.id, 'open') == '1'
  if open then redis.call('ZADD', P .. 'due', exact(now + arg.ttl_s), arg.id) end
  return {open = open}
end

function operations.levels() return {levels = levels(look(arg.charges))} end

function operations.write() write(arg.id, now, arg.row) return {} end

-- By rank, not by an offset into a range of times: a late page costs as little as the first.
function operations.page()
  expire()
  local index = P .. 'at:' .. (redis.call('GET', P .. 'epoch') or '0')
  local first = redis.call('ZCOUNT', index, '-inf', '(' .. arg.low) + arg.offset
  local last = redis.call('ZCOUNT', index, '-inf', arg.high) - 1
  if arg.newest then
    last = last - arg.offset
    first = math.max(first - arg.offset, last - arg.count + 1)
  end
  if last < first then return {page = {}} end
  last = math.min(last, first + arg.count - 1)
  local found = redis.call('ZRANGE', index, first, last, 'WITHSCORES')
  local page = {}
  for n = 1, #found, 2 do
    local entry = {found[n + 1], redis.call('HGET', P .. 'rows', found[n]):match('|(.*)$')}
    table.insert(page, arg.newest and 1 or #page + 1, entry)
  end
  return {page = page}
end

function operations.epoch() redis.call('INCR', P .. 'epoch') return {} end

function operations.reset()
  for _, key in ipairs(redis.call('KEYS', P .. 'c:*')) do
    redis.call('HSET', key, 'used', '0', 'spent', '0', 'warned', '0')
  end
  for _, key in ipairs(redis.call('KEYS', P .. 'h:*')) do
    local hold = redis.call('HMGET', key, 'open', 'taken')
    if hold[1] ~= '1' then
      redis.call('DEL', key)
    else
      for _, item in ipairs(cjson.decode(hold[2])) do correct(item[1], tonumber(item[2]), 0) end
    end
  end
  return {}
end

function operations.peek()
  local records = {}
  for n, target in ipairs(arg.targets) do records[n] = redis.call('GET', P .. 'b:' .. target) or '' end
  return {now = exact(now), records = records}
end

return cjson.encode(operations[ARGV[1]]())

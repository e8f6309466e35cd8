-- record: how a buyer's record is packed. Put before the scripts that read it.
--
-- A record is one field of a sale's buyers hash, under the buyer's name ("u:<user>" or "o:<order>"):
--   live entries 1 byte | tombstones 1 byte | live entries, 44 bytes each | tombstones, 20 bytes each
--   live entry: key hash 8 | fingerprint 8 | line hash 8 | flags 1 (1: the client sent a key) | units 3 | place 12
--     | sum 4, of the buyer and all of this but the place, as the gateway computed it
--   tombstone:  key hash 8 | place 12
--   place:      epoch 3 | seq 5 | place in the call 1 | nonce tail 3      (domain::reservation_id::Place)
-- At most 64 of each: a 65th live entry is refused, the oldest tombstone makes room (by then the ledger's key table
-- answers for it).
local LIVE, TOMB, RECORD_MAX = 44, 20, 64
local byte, sub, char = string.byte, string.sub, string.char
local NO_RECORD, ONE_LIVE = char(0, 0), char(1, 0)

local function tombs_at(record)
  return 3 + LIVE * byte(record, 1)
end

-- Start of the live entry whose 8 or 12 bytes at `offset` are `part`, or nil.
local function find_live(record, offset, part)
  for at = 3, tombs_at(record) - 1, LIVE do
    if sub(record, at + offset, at + offset + #part - 1) == part then
      return at
    end
  end
end

local function find_tomb(record, key)
  for at = tombs_at(record), #record, TOMB do
    if sub(record, at, at + 7) == key then
      return at
    end
  end
end

local function units_at(record, at)
  local a, b, c = byte(record, at + 25, at + 27)
  return a * 65536 + b * 256 + c
end

local function units_held(record)
  local held = 0
  for at = 3, tombs_at(record) - 1, LIVE do
    held = held + units_at(record, at)
  end
  return held
end

local function add_live(record, entry)
  local tombs = tombs_at(record)
  return char(byte(record, 1) + 1) .. sub(record, 2, tombs - 1) .. entry .. sub(record, tombs)
end

-- The record without the live entry at `at`; with a tombstone for it where it had a key and `leave_tomb`.
local function end_live(record, at, leave_tomb)
  local lives, tombs = byte(record, 1), byte(record, 2)
  local entry = sub(record, at, at + LIVE - 1)
  local rest = sub(record, 3, at - 1) .. sub(record, at + LIVE)
  if leave_tomb and byte(entry, 25) % 2 == 1 then
    if tombs == RECORD_MAX then
      local first = LIVE * (lives - 1)
      rest = sub(rest, 1, first) .. sub(rest, first + TOMB + 1)
    else
      tombs = tombs + 1
    end
    rest = rest .. sub(entry, 1, 8) .. sub(entry, 29, 40)
  end
  return char(lives - 1, tombs) .. rest
end

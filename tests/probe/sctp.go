package main

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
)

// SCTP is spoken here by packets made by hand, for not every kernel that tests run on has its sockets.

// SCTP's chunks and parameters, RFC 9260, 3.2 and 3.3.
const (
	sctpData       = 0
	sctpInit       = 1
	sctpInitAck    = 2
	sctpAbort      = 6
	sctpCookieEcho = 10
	sctpCookieAck  = 11

	sctpCookie = 7
)

// Lengths in bytes: of the common header, a chunk's header, an INIT with both.
const (
	sctpHeader    = 12
	sctpChunkHead = 4
	sctpInitWhole = sctpHeader + sctpChunkHead + 16
)

// sctpMessage is a packet of one chunk.
type sctpMessage struct {
	sport, dport uint16
	vtag         uint32 // verification tag
	kind         byte   // of the chunk
	body         []byte // of the chunk, without its header
}

// parseSCTP reads a packet's first chunk. right tells whether the packet's checksum is.
func parseSCTP(p []byte) (m sctpMessage, right, ok bool) {
	if len(p) < sctpHeader+sctpChunkHead {
		return m, false, false
	}
	length := int(binary.BigEndian.Uint16(p[sctpHeader+2:]))
	if length < sctpChunkHead || sctpHeader+length > len(p) {
		return m, false, false
	}
	m = sctpMessage{
		sport: binary.BigEndian.Uint16(p), dport: binary.BigEndian.Uint16(p[2:]),
		vtag: binary.BigEndian.Uint32(p[4:]), kind: p[sctpHeader],
		body: p[sctpHeader+sctpChunkHead : sctpHeader+length],
	}
	return m, binary.LittleEndian.Uint32(p[8:]) == sctpSum(p), true
}

// packet is the message on the wire.
func (m sctpMessage) packet() []byte {
	p := binary.BigEndian.AppendUint16(nil, m.sport)
	p = binary.BigEndian.AppendUint16(p, m.dport)
	p = binary.BigEndian.AppendUint32(p, m.vtag)
	flags := byte(0)
	if m.kind == sctpData {
		flags = 3 // the whole of a user message
	}
	p = append(p, 0, 0, 0, 0, m.kind, flags)
	p = binary.BigEndian.AppendUint16(p, uint16(sctpChunkHead+len(m.body)))
	p = append(p, m.body...)
	for len(p)%4 != 0 {
		p = append(p, 0)
	}
	binary.LittleEndian.PutUint32(p[8:], sctpSum(p))
	return p
}

// sctpInitBody is what INIT and INIT ACK say; the latter carries a cookie.
func sctpInitBody(initiate uint32, cookie string) []byte {
	b := binary.BigEndian.AppendUint32(nil, initiate)
	b = binary.BigEndian.AppendUint32(b, 65536)
	b = append(b, 0, 1, 0, 1) // streams out and in
	b = binary.BigEndian.AppendUint32(b, 1)
	if cookie != "" {
		b = binary.BigEndian.AppendUint16(b, sctpCookie)
		b = binary.BigEndian.AppendUint16(b, uint16(4+len(cookie)))
		b = append(b, cookie...)
	}
	return b
}

// sctpDataBody is a user message on the first stream.
func sctpDataBody(number uint32, text string) []byte {
	b := binary.BigEndian.AppendUint32(nil, number)
	return append(append(b, 0, 0, 0, 0, 0, 0, 0, 0), text...)
}

// cookie is that of an INIT ACK.
func (m sctpMessage) cookie() (string, bool) {
	const fixed = sctpInitWhole - sctpHeader - sctpChunkHead
	if m.kind != sctpInitAck || len(m.body) <= fixed+4 {
		return "", false
	}
	end := fixed + int(binary.BigEndian.Uint16(m.body[fixed+2:]))
	return string(m.body[fixed+4 : min(len(m.body), end)]), true
}

// initiate is the tag that the sender of INIT or INIT ACK wants to be addressed by.
func (m sctpMessage) initiate() uint32 { return binary.BigEndian.Uint32(m.body) }

// sctpSum is a packet's CRC32c, as it stands in the packet read in little-endian order.
func sctpSum(p []byte) uint32 {
	whole := slices.Clone(p)
	clear(whole[8:12])
	return crc32.Checksum(whole, crc32.MakeTable(crc32.Castagnoli))
}

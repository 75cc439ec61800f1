package eureka

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"hash/crc32"
	"io"
	"sync"
)

// An answer about the whole registry is put together of chunks that are each written, and compressed, by themselves,
// so that a change costs as much as the chunk that it is in. Chunks that are compressed end on a byte and refer to
// nothing before them, so that any of them one after the other are one DEFLATE stream (RFC 1951); the checksum of all
// is computed from theirs.

// chunk is a piece of an answer, compressed or not.
type chunk struct {
	data []byte
	size int    // in bytes, before compression
	crc  uint32 // of that
}

var (
	// gzipHeader is that of RFC 1952, 2.3, without time, flags and system.
	gzipHeader = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}
	// lastBlock is a last block of DEFLATE with nothing in it.
	lastBlock = []byte{0x03, 0x00}
)

// compressors are reused: each holds more than a megabyte.
var compressors = sync.Pool{New: func() any {
	w, _ := flate.NewWriter(io.Discard, flate.BestSpeed) // the level is one
	return w
}}

// newChunk makes a chunk of plain, which is the caller's again if it is compressed.
func newChunk(plain []byte, compress bool) chunk {
	if !compress {
		return chunk{data: plain, size: len(plain)}
	}
	c := chunk{size: len(plain), crc: crc32.ChecksumIEEE(plain)}
	if c.size == 0 {
		return c
	}
	var out bytes.Buffer
	out.Grow(len(plain)/8 + 64)
	w := compressors.Get().(*flate.Writer)
	defer compressors.Put(w)
	w.Reset(&out)
	_, _ = w.Write(plain) // a buffer takes everything
	_ = w.Flush()
	c.data = out.Bytes()
	return c
}

// body is an answer's.
type body struct {
	chunks []chunk
	gzip   bool
	tail   []byte // of gzip
}

func newBody(chunks []chunk, gzip bool) *body {
	b := &body{chunks: chunks, gzip: gzip}
	if gzip {
		var crc, size uint32
		for _, c := range chunks {
			crc = combine(crc, c.crc, c.size)
			size += uint32(c.size)
		}
		b.tail = binary.LittleEndian.AppendUint32(append([]byte{}, lastBlock...), crc)
		b.tail = binary.LittleEndian.AppendUint32(b.tail, size)
	}
	return b
}

// length is in bytes, as sent.
func (b *body) length() int {
	n := len(b.tail)
	if b.gzip {
		n += len(gzipHeader)
	}
	for _, c := range b.chunks {
		n += len(c.data)
	}
	return n
}

// WriteTo implements io.WriterTo.
func (b *body) WriteTo(w io.Writer) (total int64, err error) {
	write := func(data []byte) {
		if err == nil && len(data) > 0 {
			var n int
			n, err = w.Write(data)
			total += int64(n)
		}
	}
	if b.gzip {
		write(gzipHeader)
	}
	for _, c := range b.chunks {
		write(c.data)
	}
	write(b.tail)
	return total, err
}

// combine returns the CRC-32 of two texts one behind the other, of which the second has so many bytes. Adding a byte of
// zeros to a text multiplies its remainder by x^8, so the first one's is multiplied by x^(8*size), modulo the polynomial.
func combine(first, second uint32, size int) uint32 {
	power := uint32(1) << 31 // x^0: the bits are reversed
	square := uint32(1) << (31 - 8)
	for n := size; n > 0; n >>= 1 {
		if n&1 == 1 {
			power = multiply(power, square)
		}
		square = multiply(square, square)
	}
	return multiply(power, first) ^ second
}

// multiply multiplies two polynomials over GF(2) modulo that of CRC-32, all with their bits reversed.
func multiply(a, b uint32) uint32 {
	var product uint32
	for ; a != 0; a <<= 1 {
		product ^= b & -(a >> 31)
		b = b>>1 ^ crc32.IEEE&-(b&1) // times x
	}
	return product
}

package radius

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
)

// md4 is the hash of RFC 1320, which Microsoft's passwords are kept in. It
// protects nothing any more; here it is a part of MS-CHAPv2 and no more.
// golang.org/x/crypto has it too, but every host would carry that module for it.
func md4(data []byte) (sum [16]byte) {
	padded := append(make([]byte, 0, len(data)+72), data...)
	padded = append(padded, 0x80)
	for len(padded)%64 != 56 {
		padded = append(padded, 0)
	}
	padded = binary.LittleEndian.AppendUint64(padded, uint64(len(data))*8)

	state := [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
	for ; len(padded) > 0; padded = padded[64:] {
		var x [16]uint32
		for i := range x {
			x[i] = binary.LittleEndian.Uint32(padded[4*i:])
		}
		a, b, c, d := state[0], state[1], state[2], state[3]
		for i := range 48 {
			var f, add uint32
			var k, rotate int
			j := i % 16
			switch i / 16 {
			case 0:
				f, k, rotate = b&c|^b&d, j, [4]int{3, 7, 11, 19}[j%4]
			case 1:
				f, add = b&c|b&d|c&d, 0x5a827999
				k, rotate = j%4*4+j/4, [4]int{3, 5, 9, 13}[j%4]
			default:
				f, add = b^c^d, 0x6ed9eba1
				k, rotate = int(bits.Reverse8(uint8(j))>>4), [4]int{3, 9, 11, 15}[j%4]
			}
			a, b, c, d = d, bits.RotateLeft32(a+f+x[k]+add, rotate), b, c
		}
		state[0] += a
		state[1] += b
		state[2] += c
		state[3] += d
	}
	for i, v := range state {
		binary.LittleEndian.PutUint32(sum[4*i:], v)
	}
	return sum
}

// ntHash is NtPasswordHash of RFC 2759 section 8.3.
func ntHash(password string) [16]byte {
	units := utf16.Encode([]rune(password))
	b := make([]byte, 0, 2*len(units))
	for _, u := range units {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return md4(b)
}

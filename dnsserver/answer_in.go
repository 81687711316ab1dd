package dnsserver

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/miekg/dns"
)

// answerIn is a response from another server, of which the records are not read
// yet.
type answerIn struct {
	wire     []byte
	id       uint16
	flags    uint16
	question []byte // nil: none
	at       int    // of the first record
	answers  int    // records in the answer section
	tsig     int    // offset of the TSIG record, or 0
}

var errMessage = errors.New("a message that is none")

// readAnswer finds its way through a message.
func readAnswer(wire []byte) (a answerIn, err error) {
	if len(wire) < headLen {
		return a, errMessage
	}
	a = answerIn{wire: wire, id: binary.BigEndian.Uint16(wire), flags: binary.BigEndian.Uint16(wire[2:]), at: headLen}
	count := func(i int) int { return int(binary.BigEndian.Uint16(wire[4+2*i:])) }
	if a.flags&flagQR == 0 || count(0) > 1 {
		return a, errMessage
	}
	if count(0) == 1 {
		n := nameLen(wire[headLen:])
		if n == 0 || headLen+n+4 > len(wire) {
			return a, errMessage
		}
		a.at += n + 4
		a.question = wire[headLen:a.at]
	}
	a.answers = count(1)
	at := a.at
	for i := range count(1) + count(2) + count(3) {
		start := at
		if at = skipRecord(wire, at); at == 0 {
			return a, errMessage
		}
		if i >= count(1)+count(2) && binary.BigEndian.Uint16(wire[nameEnd(wire, start):]) == dns.TypeTSIG {
			if i != count(1)+count(2)+count(3)-1 {
				return a, errMessage
			}
			a.tsig = start
		}
	}
	if at != len(wire) {
		return a, errMessage
	}
	return a, nil
}

func (a *answerIn) opcode() int { return int(a.flags&opcodeMask) >> 11 }
func (a *answerIn) rcode() int  { return int(a.flags & 15) }

// complaint says what the other side has against our signature, for the log.
func (a *answerIn) complaint() string {
	if a.tsig > 0 {
		if t, ok := readTSIG(a.wire, a.tsig); ok && t.err != 0 {
			return fmt.Sprintf("; it answers %s, %s", rcodeText(a.rcode()), rcodeText(int(t.err)))
		}
	}
	if a.rcode() != dns.RcodeSuccess {
		return "; it answers " + rcodeText(a.rcode())
	}
	return ""
}

package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/miekg/dns"
)

// dnsOrigin is the zone that all DNS servers have.
const dnsOrigin = "bench.example."

// recordsPerName is how many records each name in it has: A, AAAA and MX.
const recordsPerName = 3

// dnsZone is a zone in a file, and questions about it in others.
type dnsZone struct {
	names int
	file  string
	mixed string // a tenth of its questions is for names that are not there
	paths string // the same for HTTPS
	flood string // questions for other names, none of them twice
}

// zone returns the zone with so many names. Its files are made when somebody
// asks for the first time.
func (b *bench) zone(names int) (*dnsZone, error) {
	if z := b.zones[names]; z != nil {
		return z, nil
	}
	dir, err := b.folder("zone")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // servers drop root
		return nil, err
	}
	z := &dnsZone{names: names}
	for name, path := range map[string]*string{"zone": &z.file, "mixed": &z.mixed, "paths": &z.paths, "flood": &z.flood} {
		*path = filepath.Join(dir, name)
	}
	err = writeLines(z.file, func(w *bufio.Writer) {
		fmt.Fprintf(w, "$ORIGIN %s\n$TTL 3600\n@ SOA ns1 hostmaster 1 7200 3600 1209600 300\n@ NS ns1\nns1 A 192.0.2.1\n", dnsOrigin)
		for i := range names {
			for _, t := range dnsTypes() {
				fmt.Fprintf(w, "%s %s %s\n", dnsLabel(i), dns.TypeToString[t], dnsData(i, t))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	random := rand.New(rand.NewPCG(1, 2))
	var questions []dns.Question
	for range 50_000 {
		i, t := random.IntN(names), dns.TypeA
		switch n := random.IntN(10); {
		case n == 0:
			i += names
		case n < 4:
			t = dns.TypeAAAA
		case n < 6:
			t = dns.TypeMX
		}
		questions = append(questions, dns.Question{Name: dnsLabel(i) + "." + dnsOrigin, Qtype: t, Qclass: dns.ClassINET})
	}
	err = writeLines(z.mixed, func(w *bufio.Writer) {
		for _, q := range questions {
			fmt.Fprintf(w, "%s %s\n", q.Name, dns.TypeToString[q.Qtype])
		}
	})
	if err != nil {
		return nil, err
	}
	err = writeLines(z.paths, func(w *bufio.Writer) {
		for _, q := range questions {
			// Its ID is 0, as RFC 8484 section 4.1 wants it.
			wire, err := (&dns.Msg{MsgHdr: dns.MsgHdr{RecursionDesired: true}, Question: []dns.Question{q}}).Pack()
			if err == nil {
				fmt.Fprintf(w, "/dns-query?dns=%s\n", base64.RawURLEncoding.EncodeToString(wire))
			}
		}
	})
	if err != nil {
		return nil, err
	}
	err = writeLines(z.flood, func(w *bufio.Writer) {
		for i := range b.flood {
			fmt.Fprintf(w, "%016x.%s A\n", uint64(i)<<40|random.Uint64N(1<<40), dnsOrigin)
		}
	})
	if err != nil {
		return nil, err
	}
	if b.zones == nil {
		b.zones = make(map[int]*dnsZone)
	}
	b.zones[names] = z
	return z, nil
}

func writeLines(path string, write func(*bufio.Writer)) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	write(w)
	if err := w.Flush(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func dnsTypes() []uint16 { return []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeMX} }

// dnsLabel is the label of name i. Labels look random, those that are in the
// zone like those that are not, and no two are the same.
func dnsLabel(i int) string { return fmt.Sprintf("h%08x", uint32(i)*2654435761) }

// dnsData is what the zone has at name i. The exchanges of MX are elsewhere, as
// some servers would add their addresses and others not.
func dnsData(i int, rtype uint16) string {
	switch rtype {
	case dns.TypeA:
		return fmt.Sprintf("10.%d.%d.%d", byte(i>>16), byte(i>>8), byte(i))
	case dns.TypeAAAA:
		return fmt.Sprintf("2001:db8::%x:%x", 1+i>>16, i&0xffff)
	}
	return fmt.Sprintf("10 mx%d.mail.example.", i%100)
}

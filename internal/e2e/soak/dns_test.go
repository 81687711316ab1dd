package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/dcrouter/dcrouter/dnsserver"
)

const changing = 20 // names whose records change

// recordBook knows what the records are. Each name has an address and a text that
// change together.
type recordBook struct {
	w       *world
	mu      sync.Mutex // held during a change
	last    int
	version [changing]timeline[int]
}

func newRecordBook(w *world) *recordBook {
	b := &recordBook{w: w}
	for i := range b.version {
		_ = b.version[i].next(0, func() error { return nil })
	}
	return b
}

func recordName(i int) string { return fmt.Sprintf("r%d.%s", i, zone) }

// records are those of a name at a version.
func records(i, version int) []dnsserver.Record {
	return []dnsserver.Record{
		{Name: recordName(i), Type: "A", Value: fmt.Sprintf("10.%d.%d.%d", version>>16&255, version>>8&255, version&255), TTL: 60},
		{Name: recordName(i), Type: "TXT", Value: fmt.Sprint("version ", version), TTL: 60},
	}
}

// first are the records to start with.
func (b *recordBook) first() (list []dnsserver.Record) {
	for i := range b.version {
		list = append(list, records(i, 0)...)
	}
	return list
}

// change changes the records of some names in one transaction.
func (b *recordBook) change() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	var list []dnsserver.Record
	apply := func() error { return b.w.tell("/records", list, nil) }
	for _, i := range rand.Perm(changing)[:1+rand.IntN(3)] {
		list = append(list, records(i, b.last)...)
		inner := apply
		apply = func() error { return b.version[i].next(b.last, inner) }
	}
	return apply()
}

// exchange sends a question and returns the answer.
type exchange func(ctx context.Context, q *dns.Msg) (*dns.Msg, error)

// plainDNS asks a port by "udp" or "tcp".
func plainDNS(network string, port int) exchange {
	client := &dns.Client{Net: network, Timeout: 5 * time.Second}
	return func(ctx context.Context, q *dns.Msg) (answer *dns.Msg, err error) {
		for range 4 { // datagrams get lost on a busy machine
			if answer, _, err = client.ExchangeContext(ctx, q, address(port)); err == nil || network != "udp" {
				break
			}
		}
		return answer, err
	}
}

// overHTTPS asks by RFC 8484.
func overHTTPS(client *http.Client, host string) exchange {
	return func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
		q.Id = 0
		text, err := q.Pack()
		if err != nil {
			return nil, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+host+"/dns-query", bytes.NewReader(text))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/dns-message")
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusOK {
			return nil, errors.New(resp.Status)
		}
		answer := new(dns.Msg)
		return answer, answer.Unpack(body)
	}
}

// query asks for something whose answer is known.
func (b *recordBook) query(ctx context.Context, ask exchange) error {
	i, begin := rand.IntN(changing), time.Now()
	q := new(dns.Msg)
	kind := rand.IntN(4)
	switch kind {
	case 0:
		q.SetQuestion(recordName(i)+".", dns.TypeA)
	case 1:
		q.SetQuestion(recordName(i)+".", dns.TypeTXT)
	case 2:
		q.SetQuestion(fmt.Sprintf("x%d.y.%s.", rand.Uint64(), zone), dns.TypeA) // by the wildcard
	case 3:
		q.SetQuestion(fmt.Sprintf("x%d.sender.test.", rand.Uint64()), dns.TypeA)
	}
	answer, err := ask(ctx, q)
	if err != nil {
		return err
	}
	want := dns.RcodeSuccess
	if kind == 3 {
		want = dns.RcodeNameError
	}
	if answer.Rcode != want || !answer.Authoritative {
		return fmt.Errorf("wrong: %v", answer)
	}
	if kind == 3 {
		return nil
	}
	if len(answer.Answer) != 1 {
		return fmt.Errorf("wrong: %v", answer)
	}
	version := -1
	switch rr := answer.Answer[0].(type) {
	case *dns.A:
		ip := rr.A.To4()
		if kind == 2 {
			if ip.String() != "127.0.0.1" {
				return fmt.Errorf("wrong: %v", answer)
			}
			return nil
		}
		version = int(ip[1])<<16 | int(ip[2])<<8 | int(ip[3])
	case *dns.TXT:
		if len(rr.Txt) == 1 && len(rr.Txt[0]) > 8 {
			version, _ = strconv.Atoi(rr.Txt[0][8:])
		}
	}
	return b.version[i].check(version, begin)
}

// serial returns the serial number of the zone at a server.
func serial(ctx context.Context, port int) (uint32, error) {
	q := new(dns.Msg)
	q.SetQuestion(zone+".", dns.TypeSOA)
	answer, err := plainDNS("tcp", port)(ctx, q)
	if err != nil {
		return 0, err
	}
	for _, rr := range answer.Answer {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa.Serial, nil
		}
	}
	return 0, fmt.Errorf("no SOA: %v", answer)
}

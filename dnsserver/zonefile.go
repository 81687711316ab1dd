package dnsserver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"

	"github.com/miekg/dns"
)

// readZoneFile reads a zone file (RFC 1035 section 5, with $INCLUDE, $ORIGIN,
// $TTL and $GENERATE) and calls add with each record in the order of the file.
// The error names file and line.
func readZoneFile(path, zone string, add func(record) error) error {
	f, err := os.Open(path)
	if err != nil {
		var pathErr *os.PathError
		if errors.As(err, &pathErr) {
			err = pathErr.Err
		}
		return &ZoneError{Zone: nameText(zone), File: path, Err: err}
	}
	defer f.Close()
	err = readZone(f, path, zone, add)
	var ze *ZoneError
	if errors.As(err, &ze) && ze.File == "" { // not an included one
		ze.File = path
	}
	return err
}

// readZone reads the text of a zone file. path is where included files are
// looked for; if it is empty there may be none.
func readZone(text io.Reader, path, zone string, add func(record) error) error {
	lines := &lineCounter{from: bufio.NewReaderSize(text, 64<<10)}
	zp := dns.NewZoneParser(lines, nameText(zone), path)
	zp.SetDefaultTTL(defaultTTL)
	zp.SetIncludeAllowed(path != "")
	fail := func(err error) error {
		return &ZoneError{Zone: nameText(zone), Line: max(lines.ended, 1), Err: err}
	}
	for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
		if class := rr.Header().Class; class != dns.ClassINET {
			return fail(fmt.Errorf("%s: class %s is not served", rr.Header().Name, dns.Class(class)))
		}
		r, err := packRecord(rr)
		if err != nil {
			return fail(fmt.Errorf("%s: %w", rr.Header().Name, err))
		}
		if !isBelow(r.name, zone) {
			return fail(fmt.Errorf("%s is not in the zone", rr.Header().Name))
		}
		if err := add(r); err != nil {
			return fail(err)
		}
	}
	if err := zp.Err(); err != nil {
		file, line, reason := parseErrorAt(err)
		if line == 0 {
			line = lines.ended + 1
		}
		return &ZoneError{Zone: nameText(zone), File: file, Line: line, Err: errors.New(reason)}
	}
	return nil
}

// parseErrorAt takes apart what the parser says, which is
// "file: dns: reason: token at line: 1:2".
func parseErrorAt(err error) (file string, line int, reason string) {
	reason = err.Error()
	if before, rest, ok := strings.Cut(reason, "dns: "); ok {
		file, reason = strings.TrimSuffix(before, ": "), rest
	}
	if i := strings.LastIndex(reason, " at line: "); i >= 0 {
		fmt.Sscanf(reason[i:], " at line: %d", &line)
		reason = reason[:i]
	}
	return file, line, reason
}

// lineCounter counts the lines that have been read. The parser reads no further
// than the record that it returns.
type lineCounter struct {
	from  *bufio.Reader
	ended int
	open  bool // a line has begun
}

// ReadByte makes the parser read no further than it needs to.
func (l *lineCounter) ReadByte() (byte, error) {
	c, err := l.from.ReadByte()
	if c == '\n' && err == nil || err != nil && l.open {
		l.ended++
	}
	l.open = err == nil && c != '\n'
	return c, err
}

// Read is there because the parser asks for it; it uses ReadByte.
func (l *lineCounter) Read(p []byte) (int, error) { return l.from.Read(p) }

// writeZone writes a zone file: the SOA record first, then all others in
// canonical order.
func writeZone(w io.Writer, z *zone, records iter.Seq[record]) error {
	out := bufio.NewWriterSize(w, 64<<10)
	fmt.Fprintf(out, "$ORIGIN %s\n", nameText(z.name))
	top := z.nameOf(z.top)
	for _, soa := range []bool{true, false} {
		for r := range records {
			if (r.rtype == dns.TypeSOA && r.name == top) == soa {
				out.WriteString(r.text())
				if err := out.WriteByte('\n'); err != nil {
					return err
				}
				if soa {
					break
				}
			}
		}
	}
	return out.Flush()
}

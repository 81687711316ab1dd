package scan

import (
	"bytes"
	"context"
	"errors"
)

// virusScanner knows one signature.
type virusScanner struct{ limits ArchiveLimits }

// NewVirus returns the built-in scanner for malware, which knows the EICAR test
// file only: it shows that mail is scanned, and does not replace a real scanner. A
// part or a file in an archive is the test file if it begins with its 68
// characters and nothing but white space follows, up to 128 in all.
//
// Archives beyond the limits are bad too.
func NewVirus(limits ArchiveLimits) Scanner { return &virusScanner{limits} }

func (s *virusScanner) Scan(ctx context.Context, m Message) (Verdict, error) {
	v := Verdict{Kind: Virus}
	err := eachFile(ctx, m.Data, s.limits, func(f file) error {
		if f.whole && isEICAR(f.head) {
			v.find("Eicar-Test-Signature", f.path)
		}
		return nil
	})
	return v, v.limited(err)
}

// eicar returns the test file's text. It is in two pieces so that neither this
// source nor a program with it is taken for a virus.
func eicar() []byte {
	return append([]byte(`X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-`), `ANTIVIRUS-TEST-FILE!$H+H*`...)
}

const maxEICAR = 128

func isEICAR(b []byte) bool {
	rest, ok := bytes.CutPrefix(b, eicar())
	return ok && len(b) <= maxEICAR && len(bytes.Trim(rest, " \t\r\n\x1a")) == 0
}

// find notes something bad; the first of several gives the verdict its name.
func (v *Verdict) find(name, detail string) {
	if !v.Bad {
		v.Bad, v.Action, v.Name = true, Reject, name
	}
	v.detail(detail)
}

// limited makes an archive beyond the limits something bad: one that cannot be
// looked at must not pass as clean, and would be the same the next time.
func (v *Verdict) limited(err error) error {
	var limit *limitError
	if errors.As(err, &limit) {
		v.find("Archive-Limit", limit.Error())
		return nil
	}
	return err
}

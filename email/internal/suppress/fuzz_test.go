package suppress

import (
	"bytes"
	"testing"
)

// FuzzSegment: damaged storage is an error, and what is read can be written again.
func FuzzSegment(f *testing.F) {
	f.Add(encodeSegment([]record{newRecord("a@example.com", 'b', 1, 2, 3, "detail"), newRecord("b@example.com", removed, 1, 2, 0, "")}))
	f.Add([]byte{1, 0, 5, 'a', 'b', 0, 'b', 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var records []record
		err := decodeSegment(b, func(r record) {
			_ = r.entry()
			_ = r.stamp()
			records = append(records, r)
		})
		if err == nil && !bytes.Equal(encodeSegment(records), b) {
			t.Errorf("%q became %q", b, encodeSegment(records))
		}
	})
}

// FuzzImport: whatever the file is, what comes in goes out and in again.
func FuzzImport(f *testing.F) {
	f.Add([]byte("address,reason,detail,added,expires\na@example.com,bounce,\"x\ny\",2020-01-01T00:00:00Z,\n"))
	f.Add([]byte("\"a@example.com\n"))
	f.Add([]byte("address,detail\na@example.com,x\x00\n"))
	f.Add([]byte("'=a@example.com,x\n''b@example.com\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, again := open(t, nil), open(t, nil)
		l.ImportCSV(t.Context(), bytes.NewReader(b))
		var out bytes.Buffer
		if err := l.ExportCSV(&out); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		if n, err := again.ImportCSV(t.Context(), &out); n != len(addresses(l, Query{})) || err != nil {
			t.Errorf("%d of %d, %v: %q", n, l.Len(), err, text)
		}
		for e := range l.All(Query{}) {
			if got, there := again.Check(e.Address); !there || got.Address != e.Address || got.Detail != e.Detail {
				t.Errorf("%+v became %+v", e, got)
			}
		}
	})
}

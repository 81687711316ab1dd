package suppress

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// columns of the CSV form, in this order when written.
func columns() []string { return []string{"address", "reason", "detail", "added", "expires"} }

// ExportCSV writes the list as CSV with a line of column names: address, reason,
// detail, added and expires, times as in 2030-01-02T15:04:05Z. A field that a
// spreadsheet would take for a formula has a "'" in front.
func (l *List) ExportCSV(w io.Writer) error {
	cw := csv.NewWriter(w)
	if err := cw.Write(columns()); err != nil {
		return err
	}
	for e := range l.All(Query{}) {
		row := []string{defuse(e.Address), string(e.Reason), defuse(e.Detail), timeText(e.Added), timeText(e.Expires)}
		if err := cw.Write(row); err != nil {
			return err
		}
	}
	cw.Flush()
	return cw.Error()
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// defuse keeps spreadsheets from calculating what strangers wrote.
func defuse(s string) string {
	if isFormula(s) {
		return "'" + s
	}
	return s
}

func undefuse(s string) string {
	if rest, ok := strings.CutPrefix(s, "'"); ok && isFormula(rest) {
		return rest
	}
	return s
}

func isFormula(s string) bool {
	s = strings.TrimLeft(s, "'")
	return s != "" && strings.IndexByte("=+-@", s[0]) >= 0
}

// maxRow bounds a line of CSV, and maxRowErrors how many mistakes are told.
const (
	maxRow       = 64 << 10
	maxRowErrors = 20
)

// ImportCSV adds what [List.ExportCSV] writes. The columns may be in any order and
// all but address may be missing, as may the line of names where there is only a
// column of addresses; others are ignored. Without a reason it is manual. It
// returns how many lines were added. Lines with mistakes are left out, and the
// error tells of the first of them by their numbers. What was added is stored when
// it returns, unless reading or the storage has failed.
func (l *List) ImportCSV(ctx context.Context, r io.Reader) (int, error) {
	limit := &rowLimit{r: r}
	cr := csv.NewReader(limit)
	cr.FieldsPerRecord, cr.ReuseRecord, cr.LazyQuotes = -1, true, true
	var index map[string]int // of the columns
	var mistakes []error
	added, wrong := 0, 0
	end := func(err error) (int, error) {
		if wrong > len(mistakes) {
			mistakes = append(mistakes, fmt.Errorf("and %d more", wrong-len(mistakes)))
		}
		return added, errors.Join(append(mistakes, err)...)
	}
	for {
		limit.left = maxRow
		row, err := cr.Read()
		if err == io.EOF {
			return end(l.Flush(ctx))
		}
		if err != nil && !errors.As(err, new(*csv.ParseError)) || errors.Is(err, errRow) {
			return end(err)
		}
		if err == nil {
			isNames := false
			if index == nil {
				if index, isNames = readNames(row); isNames {
					continue
				}
			}
			if err = l.addRow(row, index); err != nil {
				line, _ := cr.FieldPos(0)
				err = fmt.Errorf("line %d: %w", line, err)
			}
		}
		switch {
		case err == nil:
			added++
			if l.waiting() >= maxPending/2 { // others need room for theirs
				if err := l.Flush(ctx); err != nil {
					return end(err)
				}
			}
		case errors.Is(err, ErrFull), errors.Is(err, ErrClosed):
			return end(err)
		default:
			if wrong++; len(mistakes) < maxRowErrors {
				mistakes = append(mistakes, err)
			}
		}
	}
}

func (l *List) addRow(row []string, index map[string]int) error {
	e, err := readRow(row, index)
	if err != nil {
		return err
	}
	return l.Add(e)
}

// readNames finds the columns.
func readNames(row []string) (index map[string]int, isNames bool) {
	index = make(map[string]int)
	for i, name := range row {
		name = strings.ToLower(strings.TrimSpace(strings.TrimPrefix(name, "\ufeff")))
		if name == "email" {
			name = "address"
		}
		if _, twice := index[name]; !twice && slices.Contains(columns(), name) {
			index[name] = i
		}
	}
	if _, ok := index["address"]; ok {
		return index, true
	}
	return map[string]int{"address": 0}, false
}

func readRow(row []string, index map[string]int) (e Entry, err error) {
	get := func(name string) string {
		if i, ok := index[name]; ok && i < len(row) {
			return strings.TrimSpace(undefuse(row[i]))
		}
		return ""
	}
	e = Entry{Address: strings.Clone(get("address")), Reason: Reason(get("reason")), Detail: get("detail")}
	if e.Reason == "" {
		e.Reason = Manual
	}
	for _, column := range []struct {
		name string
		to   *time.Time
	}{{"added", &e.Added}, {"expires", &e.Expires}} {
		if text := get(column.name); text != "" {
			if *column.to, err = time.Parse(time.RFC3339, text); err != nil {
				return e, fmt.Errorf("%s: %.50q is no time as in 2030-01-02T15:04:05Z", column.name, text)
			}
		}
	}
	return e, nil
}

var errRow = errors.New("a line is longer than 64 KiB, or a quote is not closed; nothing behind it was read")

// rowLimit ends reading where a line does not.
type rowLimit struct {
	r    io.Reader
	left int
}

func (l *rowLimit) Read(b []byte) (int, error) {
	if l.left <= 0 {
		return 0, errRow
	}
	n, err := l.r.Read(b[:min(len(b), l.left)])
	l.left -= n
	return n, err
}

package email

import (
	"slices"
	"strings"
	"testing"

	"github.com/dcrouter/dcrouter/internal/testenv"
	"github.com/dcrouter/dcrouter/storage"
)

func TestSuppressionList(t *testing.T) {
	testenv.Goroutines(t)
	store, err := storage.Open(t.Context(), storage.Memory())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	l, err := NewSuppressionList(t.Context(), WithStorage(store))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Add(Suppression{Address: "Ann@Example.com", Reason: SuppressedBounce, Detail: "550 5.1.1"}); err != nil {
		t.Fatal(err)
	}
	if n, err := l.ImportCSV(t.Context(), strings.NewReader("address,reason\nbob@example.com,complaint\n")); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l, err = NewSuppressionList(t.Context(), WithStorage(store)); err != nil {
		t.Fatal(err)
	}
	defer l.Close(t.Context())
	s, found := l.Check("ann@example.com")
	if !found || s.Reason != SuppressedBounce || s.Detail != "550 5.1.1" || s.Expires.IsZero() {
		t.Errorf("%+v, %v", s, found)
	}
	var all []string
	for s := range l.All(SuppressionQuery{After: "ann@example.com", Reason: SuppressedComplaint}) {
		all = append(all, s.Address)
	}
	if !slices.Equal(all, []string{"bob@example.com"}) || l.Len() != 2 {
		t.Errorf("%q of %d", all, l.Len())
	}
}

package email

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/dcrouter/dcrouter/email/internal/suppress"
)

// SuppressionReason says why no mail is sent to an address.
type SuppressionReason string

// Values of [SuppressionReason].
const (
	// SuppressedBounce is a mailbox that there is not, as its server said.
	SuppressedBounce SuppressionReason = "bounce"
	// SuppressedComplaint is somebody who has called our mail spam.
	SuppressedComplaint SuppressionReason = "complaint"
	// SuppressedUnsubscribe is somebody who wants no more.
	SuppressedUnsubscribe SuppressionReason = "unsubscribe"
	// SuppressedManual is an entry of the operator.
	SuppressedManual SuppressionReason = "manual"
)

// Suppression is an address that no mail is sent to.
type Suppression struct {
	// Address is compared without regard to upper and lower case, in the local part
	// too. "@example.com" is a whole domain, without its subdomains.
	Address string `json:"address"`
	// Reason is one of those above.
	Reason SuppressionReason `json:"reason"`
	// Detail is more about it, such as a server's reply; 240 bytes are kept.
	Detail string `json:"detail,omitempty"`
	// Added is when it was entered. Zero means now.
	Added time.Time `json:"added"`
	// Expires is when it ends. Zero means 90 days after Added for a bounce, since
	// mailboxes and domains come back, and never for other reasons.
	Expires time.Time `json:"expires,omitzero"`
}

// SuppressionQuery says which entries of a [SuppressionList] are wanted. The zero
// value is all.
type SuppressionQuery struct {
	// Prefix is how the address begins.
	Prefix string
	// Reason is why it is there, "" for any.
	Reason SuppressionReason
	// After leaves out all addresses up to this one: the last of a page, to get the
	// next.
	After string
}

// SuppressionList has the addresses that no mail is sent to. It also works without
// a [Server]:
//
//	list, err := email.NewSuppressionList(ctx, email.WithStorage(store))
//	...
//	defer list.Close(ctx)
//	if s, found := list.Check("ann@example.com"); found {
//		log.Print(s.Reason)
//	}
//
// The list is in memory, some 120 bytes and the detail for each entry, and a check
// does no I/O. Changes take effect at once, and are stored within two seconds, by
// Flush and by Close; call Flush before you tell somebody that it is done. In the
// storage it is below "email/bounces/suppression/"; several processes on one storage
// see each other's changes within a minute. Its methods may be called from several
// goroutines.
type SuppressionList struct{ l *suppress.List }

// NewSuppressionList reads the list from storage. Of the options, those about
// logger, storage and clock matter; without storage the list is in memory only.
// Close it.
func NewSuppressionList(ctx context.Context, opts ...Option) (*SuppressionList, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	o.setDefaults()
	l, err := suppress.Open(ctx, suppress.Config{Store: o.store, Log: o.log, Now: o.now})
	if err != nil {
		return nil, err
	}
	return &SuppressionList{l}, nil
}

// Add puts an address on the list. If it is there already, the entry that stays
// longer is kept: a bounce does not shorten a complaint. To replace an entry by
// one that ends earlier, remove it first. The error is that the address or reason
// is none, that the list was closed, or that the storage has failed for so long
// that there is no room to keep changes.
func (l *SuppressionList) Add(s Suppression) error {
	return l.l.Add(suppress.Entry{Address: s.Address, Reason: suppress.Reason(s.Reason), Detail: s.Detail, Added: s.Added, Expires: s.Expires})
}

// Remove takes an address off the list and reports whether it was there.
func (l *SuppressionList) Remove(address string) (bool, error) { return l.l.Remove(address) }

// Check tells whether an address is on the list, itself or with its whole domain.
func (l *SuppressionList) Check(address string) (Suppression, bool) {
	e, found := l.l.Check(address)
	return suppression(e), found
}

// All yields entries in the order of their addresses. The list may be used and
// changed meanwhile.
func (l *SuppressionList) All(q SuppressionQuery) iter.Seq[Suppression] {
	return func(yield func(Suppression) bool) {
		for e := range l.l.All(suppress.Query{Prefix: q.Prefix, Reason: suppress.Reason(q.Reason), After: q.After}) {
			if !yield(suppression(e)) {
				return
			}
		}
	}
}

func suppression(e suppress.Entry) Suppression {
	return Suppression{Address: e.Address, Reason: SuppressionReason(e.Reason), Detail: e.Detail, Added: e.Added, Expires: e.Expires}
}

// Len is how many entries there are, of which some may have expired.
func (l *SuppressionList) Len() int { return l.l.Len() }

// ExportCSV writes the list as CSV with the columns address, reason, detail, added
// and expires, whose names are in the first line. A field that a spreadsheet
// would take for a formula has a "'" in front.
func (l *SuppressionList) ExportCSV(w io.Writer) error { return l.l.ExportCSV(w) }

// ImportCSV adds what ExportCSV writes, or any CSV with a column address or email;
// with other columns that need not be there or in that order; or a plain list of
// addresses, one a line. The reason is manual where none is given. Lines with
// mistakes are left out: it returns how many were added, and an error that names
// the first of the others. What was added is stored when it returns, unless reading
// or the storage has failed; ctx bounds the writes to that.
func (l *SuppressionList) ImportCSV(ctx context.Context, r io.Reader) (int, error) {
	return l.l.ImportCSV(ctx, r)
}

// Flush stores what has changed.
func (l *SuppressionList) Flush(ctx context.Context) error { return l.l.Flush(ctx) }

// Close stores what has changed and ends the list, which can be asked but not
// changed after that.
func (l *SuppressionList) Close(ctx context.Context) error { return l.l.Close(ctx) }

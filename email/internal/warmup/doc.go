// Package warmup says which address a message goes out from, and keeps what the
// large providers of mailboxes think of that address from going wrong.
//
//	p, err := warmup.Open(ctx, warmup.Config{Settings: settings, Store: store})
//	provider := p.Provider("gmail-smtp-in.l.google.com") // "gmail"
//	grant, ok := p.Take(warmup.Request{Sender: "news@example.com", Provider: provider, Recipients: 3})
//	// !ok: try again at grant.Next. Else send grant.N of them from grant.Source.
//	p.Report(grant.Source, provider, warmup.Delivered, grant.N)
//
// # Warm-up
//
// Who sends much mail from an address that nobody knows is taken for a spammer:
// the mail is put off, refused, or filed as spam. So a new address sends little
// on its first day, more on the next, and so on until there is no limit. Each
// provider has an opinion of its own, hence each pair of address and provider, a
// lane, is warmed up on its own; and one more lane, over all providers, keeps an
// address to the day's number in sum.
//
// The default schedule begins with 50 messages and grows by half each day; after
// 30 days, at 6.4 million a day, there is no limit. 50 is what providers see from
// any small office. What they advise against is to more than double from one day
// to the next; growing by half leaves room for the days on which more of the mail
// than usual goes to one provider. The steep beginnings that are often published
// (50, 100, 500, 1000, 5000) multiply by five where an address is known least.
// And 30 days is how far the providers' memory is said to go back.
//
// A day counts only if a quarter or more of its number was sent: the next step
// has to be one from what the provider has seen. An address that needs less than
// its number waits for nothing, so it loses nothing either.
//
// An address that is not used is forgotten. After 7 days without mail, as in a
// holiday, each further one takes back a day of the schedule, and after 30 it
// begins anew.
//
// # Hold
//
// When too many of a day's messages in a lane bounce, are refused for policy or
// reputation, or draw complaints, the day does not count (the lane stalls). At
// twice that, the lane goes back two days of the schedule, counted from what it
// really sends, at once and once a day. Addresses that are warm by configuration
// have no number to lower; the other warm ones of the pool are preferred to them
// for the rest of the day. See [Hold] for the numbers.
//
// # Score
//
// The score of a lane or an address, from 100 (nothing but delivered) to 0, is
// from the last day:
//
//	100 - 30·min(1, bounces/10%) - 30·min(1, blocks/20%) - 40·min(1, complaints/0.3%)
//
// with bounces (hard ones) and blocks as parts of all answers, complaints as
// part of what was delivered, and 50 messages without trouble added to each, so
// that a single bounce of a few messages is not a disaster.
//
// # What outlasts a crash
//
// State is stored every few seconds, one value for each address that has changed,
// and by Close. A crash forgets what was sent since; that much more than its
// number a lane can send on that day.
package warmup

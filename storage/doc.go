// Package storage keeps the state of the other packages: small values under
// slash-separated keys, wherever the host wants them.
//
// A host picks a [Backend]: [Dir] (a folder), [Memory], [Funcs] (two
// functions of its own), or one that it writes itself, for which four methods
// do. [Open] makes a [*Store] of it, and components use nothing else:
//
//	store, err := storage.Open(ctx, storage.Dir("/var/lib/dcrouter"))
//	...
//	defer store.Close()
//	err = store.Put(ctx, "email/domains/example.org.json", data)
//
// # What a Store has
//
// Values that expire ([TTL]), compare-and-swap by revision
// ([Store.CompareAndSwap], [Store.Update]), watching for changes
// ([Store.Watch]) and leases with fencing tokens ([Store.Acquire]). A backend
// may bring these itself by implementing [Expirer], [Conditional], [Watcher]
// or [Leaser]; for what it does not bring the Store does it in this process.
// [Store.Caps] tells which is which, and ClusterSafe whether several
// processes may share the data. Times of expiry and lease tokens outlast a
// restart in any case.
//
// # Keys
//
// See [CanonicalKey]. One object is one key: a value that collects many
// objects makes every change a rewrite of all of them, and a conflict with
// every other. Keys below "_meta" belong to this package: "_meta/schema" is
// the version of the layout, "_meta/expiry/{key}" a time of expiry,
// "_meta/fence" the last lease token, "_meta/migration" the record of
// [MigrateFrom], "_meta/index/{nn}" the index of [Funcs]. They can be read
// through a Store, not written.
//
// # Limits
//
// A key has at most [MaxKeyLength] bytes (1024), a value
// [DefaultMaxValueSize] (16 MiB) unless [WithMaxValueSize] says otherwise.
// Values are held in memory whole. Mail bodies do not belong here.
//
// # Errors
//
// Everything that has no value is [ErrNotFound], which is also
// fs.ErrNotExist. The other errors are listed there. All come wrapped in a
// [*KeyError] with the operation and the key.
package storage

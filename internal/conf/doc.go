// Package conf is a strict JSON codec for configuration structs.
//
// It reads and writes plain Go structs by their json tags, as encoding/json
// does, but reports every problem at once, each with the path of its field,
// and knows what configurations need beside plain values:
//
//   - A [Secret] never prints its value.
//   - A [time.Duration] is a Go duration string or a number of milliseconds.
//   - A field that takes a list also takes one bare value.
//   - The tag conf:"preserve=-1" on a number lets the JSON string "preserve"
//     stand for -1, and several such words are separated by commas.
//   - The tag conf:"key" marks what identifies an element of a list or what
//     secrets belong to, for [KeepSecrets].
//   - A type that implements [ScalarUnmarshaler] and [ScalarMarshaler] has a
//     short form beside the object.
//   - A type that implements encoding.TextUnmarshaler is a string.
//
// Fields tagged json:"-" and fields of kinds that JSON cannot hold (func,
// interface, chan, array) are left alone. Fields of embedded structs without a
// tag count as fields of the outer struct. json.Marshaler and json.Unmarshaler
// are ignored, so that a type may implement them by calling this package.
//
// Empty values are the same as absent ones: [Encode] leaves zero values, empty
// lists and empty maps out, and [Decode] makes empty lists and maps nil. A
// field for which zero differs from absent is a pointer.
package conf

// Package opsapi will be the operations API and the dashboard of a Router:
// statistics, configuration, logs and sessions for those who run it.
//
// This version holds its configuration only: the types, their JSON form and
// their validation. The server arrives later.
package opsapi

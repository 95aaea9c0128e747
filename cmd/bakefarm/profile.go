package main

import (
	"net/http"
	"net/http/pprof"
	"runtime"
)

// profiles serves the process's profiles to `go tool pprof`, on an address of their own: whoever sees them sees much.
func profiles() http.Handler {
	runtime.SetBlockProfileRate(100_000) // one sample for 0.1 ms of waiting: cheap, and whatever matters is seen
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

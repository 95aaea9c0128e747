// Package bench times bakefarm beside the tools that people use without it, and prints one table. Nothing in it is ever
// asserted to take less than some time: it measures, docs/performance.md tells what came out and why.
//
//	make bench            everything, some minutes
//	go test ./tests/bench nothing heavy: that the table renders and that the app is what it says it is
//
// Each question is a measurement: several contenders do the same job in turn, round after round, so that whatever else the
// machine does falls on all of them alike. Every round gives every contender bytes that nobody has seen, where the
// question is about new bytes. What is reported is the median, with the fastest and the slowest run beside it. A tool that
// is not on PATH, or that can't work on this machine, is left out, and the table says so.
//
// bakefarm is the binary bin/bakefarm as `bakefarm up` in a directory of its own on a loopback port: with its embedded
// NATS and S3, which write to disk as they do in earnest. The tools push to a docker-registry on a loopback port.
package bench

// Package s3embed is the S3 server that lives inside bakefarm: one directory
// on one disk, spoken to by any S3 client, so that a farm needs no other
// service to start.
//
// # Who does what
//
//	request ─▶ sigv4.go     who is it, and which signature covers the body?
//	           payload.go   the body as it was meant: aws-chunked framing removed,
//	                        every signature, digest and checksum checked
//	        ─▶ upload.go    PUT object    ┐ bodies of bytes go straight to disk
//	           multipart.go multipart     ┘
//	        ─▶ gofakes3     everything else: GET, HEAD, lists, copies, deletes,
//	                        buckets, conditions and their XML
//	        ─▶ store.go     objects as files
//
// gofakes3 is not given the uploads for three reasons: it computes an MD5 of
// every body (a third of the speed of the rest), it does not check the payload
// signatures, and it forgets multipart uploads when the process ends.
//
// # On disk
//
//	DIR/lock                     held with flock(2) while open; contains the pid
//	DIR/format                   "bakefarm-s3embed 1"
//	DIR/buckets/BUCKET/NAME      one object: its bytes, then its metadata (object.go)
//	DIR/uploads/ID/…             one multipart upload: "upload" and a file per part
//	DIR/tmp/…                    not yet objects; emptied at Open
//
// NAME is the key with every byte outside [A-Za-z0-9_-] and inner dots written
// as %XX, or a digest when that would be too long for a file name (keyname.go).
// An object and its metadata are one file, therefore replaced by one rename.
//
// # Durability
//
// A PUT, a copy, a completed upload: write to a temporary file, fsync it, rename it
// into place, fsync the directory, answer. A DELETE: unlink, fsync the directory,
// answer. Directory fsyncs of concurrent requests are grouped (dirsync.go). So:
//
//   - after kill -9 an object is the old one or the new one, whole; never torn;
//   - after a power cut every answered request still holds;
//   - another client may see an object in the instant between its rename and the
//     directory's fsync, that is, slightly before its writer has the answer.
//
// Config.NoSync leaves out the fsyncs: kill -9 still tears nothing, a power cut may.
//
// # ETags
//
// An ETag here is 40 random hex digits, new with each write. S3 promises an MD5 to
// nobody (multipart and encrypted objects have none), and clients that want to
// compare one look for exactly 32 digits. Integrity is the business of
// x-amz-content-sha256, x-amz-checksum-* and Content-MD5, each verified where sent.
//
// # Speed
//
// Orders of magnitude for one client and one 64 MiB object, on 2 cores shared by
// client and server, fsync included (go test -bench .):
//
//	minio-go's default over plain HTTP: signed chunks            0.25 GB/s PUT, 0.8 GB/s GET
//	TrailingHeaders and DisableContentSha256: CRC-32C only       0.5  GB/s PUT
//	Server.Transport with Secure: nothing hashed, nothing sent   0.8  GB/s PUT, 9 GB/s GET
//
// A small object costs its two fsyncs, and file creation, of the filesystem: 2 to 3 ms.
package s3embed

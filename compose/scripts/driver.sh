# What dpkg does with packages whose files are there, in a system that nobody uses yet. See driver.go.
set -eu
exec 2>&1 # one stream, in the order in which things are said
umask 022
cd /
admin=/var/lib/dpkg

# What is configured already. A directory whose owner or mode another layer has changed gets them back.
keep() {
	: >/tmp/configured
	while read -r what name owner dir; do
		case $what in
		package) printf '%s\n' "$name" >>/tmp/configured ;;
		dir) mode=$name && keep_dir ;;
		esac
	done
}

keep_dir() {
	if test -d "$dir" && test "$(stat -c '%a %u:%g' "$dir")" != "$mode $owner"; then
		chown "$owner" "$dir"
		chmod "$mode" "$dir"
	fi
}

# Packages that dpkg configures are marked as unpacked. dpkg marks them as installed again, and the file ends as it was.
unmark() {
	mark='s/^Status: install ok installed$/Status: install ok unpacked/'
	if ! test -s /tmp/configured; then
		sed -i "$mark" "$admin/status"
		return
	fi
	names=$(sed 's/[.+]/[&]/g' /tmp/configured | tr '\n' '|') # a pattern of extended regular expressions
	names="/^Package: (${names%|})\$/,/^\$/"
	sed -E -i "$names!$mark" "$admin/status"
	dpkg-query --show --showformat='${db:Status-Status} ${binary:Package}\n' | sed -n 's/^unpacked //p' >/tmp/unpacked
	withhold
	trigger
}

# dpkg unpacks configuration files under other names, with nothing known of what was there before, and puts them in their
# places when it configures the package: until then no program finds half of what a package has to do with it.
withhold() {
	xargs -r dpkg-query --show --showformat='${Conffiles}\n' </tmp/unpacked |
		sed -E -n 's/^ (.*) [0-9a-f]{32}$/\1/p' >/tmp/conffiles
	while read -r file; do
		mv "$file" "$file.dpkg-new"
	done </tmp/conffiles
	sed -E -i "$names!{/^Conffiles:\$/,/^[^ ]/s/^( .*) [0-9a-f]{32}\$/\\1 newconffile/}" "$admin/status"
}

# dpkg notes who is interested in a file when it unpacks it. Of packages that are configured with the others their postinst
# takes care. File has lines "PATH PACKAGE" and "PATH PACKAGE/noawait".
trigger() {
	while read -r path interested; do
		interested=${interested%/noawait}
		if grep -qFx "${interested%:*}" /tmp/configured; then
			trigger_by
		fi
	done <"$admin/triggers/File"
}

trigger_by() {
	while read -r package; do
		list="$admin/info/$package.list"
		if grep -qFx "$path" "$list" || grep -qF "$path/" "$list"; then
			dpkg-trigger --no-await --by-package="$package" "$path"
			return
		fi
	done </tmp/unpacked
}

preinst() {
	dpkg_version=$(dpkg-query --show --showformat='${Version}' dpkg)
	dpkg-query --show --showformat='${db:Status-Status} ${binary:Package} ${Package} ${Architecture} ${Version}\n' |
		sed -n 's/^unpacked //p' >/tmp/packages
	mkdir "$admin/tmp.ci"
	only=base-passwd
	each_preinst
	only=
	each_preinst
	rmdir "$admin/tmp.ci"
}

each_preinst() {
	while read -r stem package arch version; do
		if test "$package" = base-passwd && test -z "$only"; then
			continue
		fi
		if test "$package" != base-passwd && test -n "$only"; then
			continue
		fi
		if test -x "$admin/info/$stem.preinst"; then
			run_preinst
		fi
	done </tmp/packages
}

# A preinst runs where dpkg unpacks the control files of the package. debconf finds the package's name and its questions
# beside the script.
run_preinst() {
	echo "Running the preinst of $package ($version) ..."
	for file in preinst config templates; do
		if test -e "$admin/info/$stem.$file"; then
			cp -p "$admin/info/$stem.$file" "$admin/tmp.ci/$file"
		fi
	done
	printf 'Package: %s\nArchitecture: %s\nVersion: %s\n' "$package" "$arch" "$version" >"$admin/tmp.ci/control"
	status=0
	DPKG_ADMINDIR=$admin DPKG_ROOT= DPKG_FORCE=security-mac,downgrade,unsafe-io DPKG_HOOK_ACTION=unpack \
		DPKG_RUNNING_VERSION=$dpkg_version DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=$package \
		DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_MAINTSCRIPT_ARCH=$arch DPKG_MAINTSCRIPT_DEBUG=0 \
		"$admin/tmp.ci/preinst" install </dev/null || status=$?
	if test "$status" -ne 0; then
		echo " $package package pre-installation script subprocess returned error exit status $status"
		exit 1
	fi
	rm -f "$admin"/tmp.ci/*
}

# Dependencies are in the set, but not configured yet. A configuration file that a script has made before stays, as with
# a package manager that asks nobody.
unpack() {
	cat >/tmp/package.deb
	dpkg --force-unsafe-io --force-depends --force-confold --unpack /tmp/package.deb </dev/null
	rm /tmp/package.deb
}

# Where it finds SOURCE_DATE_EPOCH, Python compiles byte code that names the hash of its source: a program that imports it
# reads the source each time. Without, it names the source's time, which is the package's, and as good. So it does not find
# it; other tools do.
plain_python() {
	for python in /usr/bin/python[23].[0-9] /usr/bin/python[23].[0-9][0-9]; do
		if test -x "$python" && test -x /bin/bash; then
			mv "$python" "$python-plain"
			printf '#!/bin/bash\nunset SOURCE_DATE_EPOCH\nexec -a "$0" %s-plain "$@"\n' "$python" >"$python"
			chmod 755 "$python"
		fi
	done
}

plain_python_end() {
	for python in /usr/bin/python*-plain; do
		if test -x "$python"; then
			mv "$python" "${python%-plain}"
		fi
	done
}

# netbase makes /etc/hosts where there is none. There is one that the layers don't have, which begins with the machine's name:
# others ask for that. It stands aside. Of what it comes back as, the layer gets the lines of netbase (keep.go).
hosts() {
	if printf '%s\n' "$unpacked" | grep -qx netbase && head -n 1 /etc/hosts | grep -q '^127\.0\.1\.1.bakefarm\.'; then
		machine=$(head -n 1 /etc/hosts)
		rm /etc/hosts
		dpkg $force --force-unsafe-io --configure netbase </dev/null
		unpacked=$(printf '%s\n' "$unpacked" | sed '/^netbase$/d')
		printf '%s\n' "$machine" >>/etc/hosts
	fi
}

force=
incomplete() {
	force=--force-depends
}

# By name, as far as dependencies allow: users and groups get their numbers in the order in which scripts ask for them, and
# dpkg's own order changes with every package in the set.
configure() {
	rm -f /tmp/configured /tmp/unpacked /tmp/conffiles /tmp/packages # of the phases before, in the same container
	plain_python
	unpacked=$(dpkg-query --show --showformat='${db:Status-Status} ${binary:Package}\n' | sed -n 's/^unpacked //p')
	hosts
	if test -n "$unpacked"; then
		dpkg $force --force-unsafe-io --force-confold --abort-after=1 --configure $unpacked </dev/null
	fi
	dpkg $force --force-unsafe-io --force-confold --abort-after=1 --configure -a </dev/null
	plain_python_end
	left=$(dpkg --audit)
	if test -n "$left"; then
		printf '%s\n' "$left"
		exit 1
	fi
}

for phase; do
	"$phase"
done

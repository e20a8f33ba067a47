#!/bin/busybox sh
# The guest's init: the least that programs expect of a Linux system, then /test.sh as root, then off.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/hugepages
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t hugetlbfs hugetlbfs /dev/hugepages 2>/dev/null
chown 1000:1000 /home/user
ln -s /proc/self/fd /dev/fd
ifconfig lo 127.0.0.1 up 2>/dev/null
echo GUEST-UP
/bin/sh /test.sh
echo "GUEST-EXIT $?"
poweroff -f

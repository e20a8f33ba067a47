#!/bin/busybox sh
# The init of a guest whose root is a disk: lays the test's files onto it at the first boot, then systemd takes over.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod $module; done
mount -t ext4 /dev/vda /mnt || poweroff -f
[ -e /mnt/test.sh ] || cp -a /files/. /mnt/
umount /proc
mount --move /dev /mnt/dev
exec switch_root /mnt /lib/systemd/systemd

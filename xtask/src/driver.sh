# Sourced by the scripts for a machine with a GPU: sets `driver` to the folder of the real driver library, where the loader
# finds it or where container runtimes put it, or ends the script.
driver=
for folder in $(ldconfig -p 2>/dev/null | sed -n 's,.*libcuda\.so\.1.* => \(.*\)/[^/]*$,\1,p') \
    /usr/local/nvidia/lib64 /usr/lib/x86_64-linux-gnu /usr/lib64 /usr/lib/wsl/lib; do
    if [ -e "$folder/libcuda.so.1" ]; then driver=$folder; break; fi
done
if [ -z "$driver" ]; then echo "${0##*/}: no NVIDIA driver on this machine" >&2; exit 2; fi

/*
 * vhost-user-vgpu: a QEMU device that hands a guest's memory and two virtqueues to the vgpu daemon on the host.
 *
 * QEMU has no part in the CUDA calls: the guest's agent and the daemon talk over guest memory. What is left for the
 * device is to be found, to carry the two queues and a read-only configuration space, and to tell each side truthfully
 * when the other one goes away.
 *
 * One source, two ways in: loaded into a finished QEMU (VGPU_OUT_OF_TREE, see README.md), or compiled as part of one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"

#ifdef VGPU_OUT_OF_TREE
#include <dlfcn.h>
/*
 * A preloaded object is loaded into whatever runs between a shell and QEMU, too (env, timeout, libvirt's probes).
 * Functions are bound when called, which there never happens; data has to be allowed to be missing.
 */
#pragma weak address_space_memory
#pragma weak current_machine
#pragma weak qdev_prop_chr
#pragma weak qdev_prop_uint16
#pragma weak qdev_prop_uint32
#pragma weak qemu_cond_timedwait_func
#pragma weak qemu_cond_wait_func
#pragma weak qemu_mutex_lock_func
#endif

#include "qapi/error.h"
#include "qapi/qapi-commands-control.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qemu-version.h"
#include "chardev/char-fe.h"
#include "chardev/char-socket.h"
#if QEMU_VERSION_MAJOR > 10 || (QEMU_VERSION_MAJOR == 10 && QEMU_VERSION_MINOR >= 1)
#include "system/address-spaces.h"
#include "system/memory.h"
#include "system/ramblock.h"
#else
#include "exec/address-spaces.h"
#include "exec/memory.h"
#include "exec/ramblock.h"
#endif
#include "exec/cpu-common.h"
#include "hw/pci/pci.h"
#if __has_include("hw/core/boards.h")
#include "hw/core/boards.h"
#include "hw/core/qdev-properties.h"
#include "hw/core/qdev-properties-system.h"
#else
#include "hw/boards.h"
#include "hw/qdev-properties.h"
#include "hw/qdev-properties-system.h"
#endif
#include "hw/virtio/vhost.h"
#include "hw/virtio/vhost-user.h"
#include "hw/virtio/virtio-bus.h"
#include "hw/virtio/virtio-pci.h"
#include "migration/blocker.h"
#include "standard-headers/linux/virtio_ids.h"

/* QEMU 10.1 made the data of class_init constant, and wants to know whether a status could be set. */
#if QEMU_VERSION_MAJOR > 10 || (QEMU_VERSION_MAJOR == 10 && QEMU_VERSION_MINOR >= 1)
#define VGPU_CLASS_DATA const void
typedef int VgpuStatus;
#define VGPU_STATUS_SET 0
#else
#define VGPU_CLASS_DATA void
typedef void VgpuStatus;
#define VGPU_STATUS_SET
#endif

/* QEMU 10.2 gave this end of a chardev another name. */
#if QEMU_VERSION_MAJOR > 10 || (QEMU_VERSION_MAJOR == 10 && QEMU_VERSION_MINOR >= 2)
typedef CharFrontend VgpuChardev;
#else
typedef CharBackend VgpuChardev;
#endif

#define TYPE_VGPU     "vhost-user-vgpu-device"
#define TYPE_VGPU_PCI "vhost-user-vgpu-pci"

/* The guest-visible interface: transport/channel/src/link/virtio.rs and docs/abi.md say the same. */
#define VGPU_DEFAULT_ID  176 /* PCI 1af4:10f0, the range for experiments, which no driver in Linux claims */
#define VGPU_LAST_ID     191 /* PCI 1af4:10ff, the last one of virtio's */
#define VGPU_QUEUES      2   /* control, doorbell */
#define VGPU_QUEUE_SIZE  256
#define VGPU_CONFIG_SIZE 64
#define VGPU_VECTORS     (VGPU_QUEUES + 1)
static const char vgpu_magic[8] = "vgpudev"; /* with its zero byte */

/* The daemon maps RAM into the GPU's driver in whole pages and cannot take part of a larger one back. */
#define VGPU_LARGEST_PAGE (2 * MiB)

/*
 * QEMU waits for a vhost-user backend with the big lock held and without a limit of its own. A backend that hangs must
 * not freeze the guest: this thread shuts the connection down when an answer takes too long, which ends the wait with
 * an error, and everything else follows as if the backend had died.
 */
typedef struct Watchdog {
    QemuThread thread;
    QemuMutex lock;
    QemuCond wake;
    int64_t deadline_ms; /* 0: nothing to watch */
    int fd;              /* own duplicate: the original may be closed, and its number reused, during a wait */
    unsigned depth;      /* main thread only: calls that wait may nest */
    bool quit;
} Watchdog;

typedef struct VGpu {
    VirtIODevice parent_obj;

    /* Properties */
    VgpuChardev chardev;
    uint16_t virtio_id;
    uint32_t timeout_s;

    VhostUserState vhost_user;
    struct vhost_dev vhost;
    struct vhost_virtqueue vhost_vqs[VGPU_QUEUES];
    VirtQueue *queues[VGPU_QUEUES];
    Error *migration_blocker;
    Watchdog watchdog;
    MemoryListener before_vhost, after_vhost;

    bool connected;  /* vhost is initialised */
    bool running;    /* vhost_dev_start succeeded and was not undone */
    bool complained; /* why the backend cannot be used was said once, not at every attempt */
    /* What the guest has been told; it stays true while no backend is there. */
    uint64_t features;
    uint8_t config[VGPU_CONFIG_SIZE];
} VGpu;

DECLARE_INSTANCE_CHECKER(VGpu, VGPU, TYPE_VGPU)

/* --- Waiting with a limit ------------------------------------------------------------------------------------------ */

static void *watchdog_main(void *opaque)
{
    VGpu *s = opaque;
    Watchdog *w = &s->watchdog;

    qemu_mutex_lock(&w->lock);
    while (!w->quit) {
        int64_t left;

        if (!w->deadline_ms) {
            qemu_cond_wait(&w->wake, &w->lock);
            continue;
        }
        left = w->deadline_ms - qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
        if (left > 0) {
            qemu_cond_timedwait(&w->wake, &w->lock, left);
            continue;
        }
        w->deadline_ms = 0;
        if (w->fd >= 0) {
            shutdown(w->fd, SHUT_RDWR);
        }
        error_report("vhost-user-vgpu: the backend did not answer within %u s and was disconnected", s->timeout_s);
    }
    qemu_mutex_unlock(&w->lock);
    return NULL;
}

static void watchdog_arm(VGpu *s)
{
    Watchdog *w = &s->watchdog;
    QIOChannelSocket *socket;

    if (w->depth++) {
        return;
    }
    qemu_mutex_lock(&w->lock);
    socket = SOCKET_CHARDEV(s->chardev.chr)->sioc;
    w->fd = socket ? fcntl(socket->fd, F_DUPFD_CLOEXEC, 0) : -1;
    w->deadline_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + s->timeout_s * 1000LL;
    qemu_cond_signal(&w->wake);
    qemu_mutex_unlock(&w->lock);
}

static void watchdog_disarm(VGpu *s)
{
    Watchdog *w = &s->watchdog;

    if (--w->depth) {
        return;
    }
    qemu_mutex_lock(&w->lock);
    w->deadline_ms = 0;
    if (w->fd >= 0) {
        close(w->fd);
        w->fd = -1;
    }
    qemu_mutex_unlock(&w->lock);
}

/* vhost tells the backend about changed memory from a listener of its own; these two stand on either side of it. */
static void before_vhost_commit(MemoryListener *listener)
{
    watchdog_arm(container_of(listener, VGpu, before_vhost));
}

static void after_vhost_commit(MemoryListener *listener)
{
    watchdog_disarm(container_of(listener, VGpu, after_vhost));
}

static void watchdog_start(VGpu *s)
{
    Watchdog *w = &s->watchdog;

    w->fd = -1;
    w->deadline_ms = 0;
    w->depth = 0;
    w->quit = false;
    qemu_mutex_init(&w->lock);
    qemu_cond_init(&w->wake);
    qemu_thread_create(&w->thread, "vgpu-watchdog", watchdog_main, s, QEMU_THREAD_JOINABLE);

    s->before_vhost = (MemoryListener) {
        .name = "vgpu-before-vhost",
        .commit = before_vhost_commit,
        .priority = MEMORY_LISTENER_PRIORITY_DEV_BACKEND - 1,
    };
    s->after_vhost = (MemoryListener) {
        .name = "vgpu-after-vhost",
        .commit = after_vhost_commit,
        .priority = MEMORY_LISTENER_PRIORITY_DEV_BACKEND + 1,
    };
    /* Registering commits: in this order, and unregistering in the same, every arming is followed by its disarming. */
    memory_listener_register(&s->before_vhost, &address_space_memory);
    memory_listener_register(&s->after_vhost, &address_space_memory);
}

static void watchdog_stop(VGpu *s)
{
    Watchdog *w = &s->watchdog;

    memory_listener_unregister(&s->before_vhost);
    memory_listener_unregister(&s->after_vhost);
    qemu_mutex_lock(&w->lock);
    w->quit = true;
    qemu_cond_signal(&w->wake);
    qemu_mutex_unlock(&w->lock);
    qemu_thread_join(&w->thread);
    qemu_cond_destroy(&w->wake);
    qemu_mutex_destroy(&w->lock);
}

/* --- Starting and stopping the queues ------------------------------------------------------------------------------ */

static int vgpu_start(VGpu *s, Error **errp)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    BusState *qbus = BUS(qdev_get_parent_bus(DEVICE(vdev)));
    VirtioBusClass *bus = VIRTIO_BUS_GET_CLASS(qbus);
    uint64_t lost = vdev->guest_features & ~s->vhost.features & ~(1ULL << VIRTIO_F_IOMMU_PLATFORM);
    int ret;

    /* A backend that returned may be another version; the guest cannot be asked to negotiate again before a reset. */
    if (lost) {
        error_setg(errp, "the backend lacks features that the guest uses: 0x%" PRIx64, lost);
        return -EPROTO;
    }
    if (!bus->set_guest_notifiers) {
        error_setg(errp, "this bus has no guest notifiers");
        return -ENOSYS;
    }
    ret = vhost_dev_enable_notifiers(&s->vhost, vdev);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot enable the host notifiers");
        return ret;
    }
    ret = bus->set_guest_notifiers(qbus->parent, VGPU_QUEUES, true);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot bind the guest notifiers");
        goto fail_notifiers;
    }
    s->vhost.acked_features = vdev->guest_features;
    s->vhost.vq_index_end = VGPU_QUEUES;
    watchdog_arm(s);
    ret = vhost_dev_start(&s->vhost, vdev, true);
    if (ret >= 0) {
        for (int i = 0; i < VGPU_QUEUES; i++) {
            vhost_virtqueue_mask(&s->vhost, vdev, i, false);
        }
    }
    watchdog_disarm(s);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "cannot start the queues");
        goto fail_guest_notifiers;
    }
    s->running = true;
    return 0;

fail_guest_notifiers:
    bus->set_guest_notifiers(qbus->parent, VGPU_QUEUES, false);
fail_notifiers:
    vhost_dev_disable_notifiers(&s->vhost, vdev);
    return ret;
}

/* Returns once the backend has come to rest (GET_VRING_BASE), or was found dead, or was cut off by the watchdog. */
static void vgpu_stop(VGpu *s)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    BusState *qbus = BUS(qdev_get_parent_bus(DEVICE(vdev)));
    VirtioBusClass *bus = VIRTIO_BUS_GET_CLASS(qbus);

    if (!s->running) {
        return;
    }
    s->running = false;
    watchdog_arm(s);
    vhost_dev_stop(&s->vhost, vdev, true);
    watchdog_disarm(s);
    if (bus->set_guest_notifiers(qbus->parent, VGPU_QUEUES, false) < 0) {
        error_report("vhost-user-vgpu: cannot release the guest notifiers");
    }
    vhost_dev_disable_notifiers(&s->vhost, vdev);
}

static VgpuStatus vgpu_set_status(VirtIODevice *vdev, uint8_t status)
{
    VGpu *s = VGPU(vdev);
    Error *err = NULL;

    /* After NEEDS_RESET ("broken") only a reset by the driver helps: the channels it believes in are gone. */
    if (!virtio_device_should_start(vdev, status) || vdev->broken) {
        bool was_running = s->running;

        vgpu_stop(s);
        /*
         * DRIVER_OK without a reset is lost when the bus-master bit is (kexec): whoever drives the device next begins
         * anew, so the channels end here and not only then. At a reset virtio_reset() tells the backend by itself.
         */
        if (was_running && s->connected && status && !(status & VIRTIO_CONFIG_S_DRIVER_OK)) {
            watchdog_arm(s);
            vhost_reset_device(&s->vhost);
            watchdog_disarm(s);
        }
    } else if (s->connected && !s->running && vgpu_start(s, &err) < 0) {
        error_reportf_err(err, "vhost-user-vgpu: ");
        qemu_chr_fe_disconnect(&s->chardev);
    }
    return VGPU_STATUS_SET;
}

/* --- The backend comes and goes ------------------------------------------------------------------------------------ */

static int vgpu_read_config(VGpu *s, Error **errp)
{
    uint8_t config[VGPU_CONFIG_SIZE];
    int ret;

    watchdog_arm(s);
    ret = vhost_dev_get_config(&s->vhost, config, sizeof(config), errp);
    watchdog_disarm(s);
    if (ret < 0) {
        return ret;
    }
    if (memcmp(config, vgpu_magic, sizeof(vgpu_magic))) {
        error_setg(errp, "what answers at chardev '%s' is no vgpu backend: its configuration space does not begin with "
                   "\"vgpudev\"", s->chardev.chr->label);
        return -EPROTO;
    }
    memcpy(s->config, config, sizeof(config));
    return 0;
}

static int vgpu_config_changed(struct vhost_dev *vhost)
{
    VGpu *s = container_of(vhost, VGpu, vhost);
    Error *err = NULL;

    if (vgpu_read_config(s, &err) < 0) {
        error_reportf_err(err, "vhost-user-vgpu: ");
        return -EIO;
    }
    virtio_notify_config(VIRTIO_DEVICE(s));
    return 0;
}

static const VhostDevConfigOps vgpu_config_ops = {
    .vhost_dev_config_notifier = vgpu_config_changed,
};

static int vgpu_connect(VGpu *s, Error **errp)
{
    int ret;

    if (s->connected) {
        return 0;
    }
    s->vhost.num_queues = VGPU_QUEUES;
    s->vhost.nvqs = VGPU_QUEUES;
    s->vhost.vqs = s->vhost_vqs;
    s->vhost.vq_index = 0;
    s->vhost.backend_features = 0;
    s->vhost_user.supports_config = true;
    vhost_dev_set_config_notifier(&s->vhost, &vgpu_config_ops);

    watchdog_arm(s);
    ret = vhost_dev_init(&s->vhost, &s->vhost_user, VHOST_BACKEND_TYPE_USER, 0, errp);
    watchdog_disarm(s);
    if (ret < 0) {
        return ret;
    }
    /* vhost blocks migration with a technicality; ours says what is really the matter, so it shall be the one shown. */
    if (s->migration_blocker) {
        migrate_del_blocker(&s->vhost.migration_blocker);
    }
    ret = vgpu_read_config(s, errp);
    if (ret >= 0 && !virtio_has_feature(s->vhost.features, VIRTIO_F_VERSION_1)) {
        error_setg(errp, "the backend does not offer virtio 1 (VIRTIO_F_VERSION_1)");
        ret = -EPROTO;
    }
    if (ret < 0) {
        vhost_dev_cleanup(&s->vhost);
        return ret;
    }
    s->features = s->vhost.features;
    s->connected = true;
    return 0;
}

static void vgpu_event(void *opaque, QEMUChrEvent event);

static void vgpu_disconnect(DeviceState *dev)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VGpu *s = VGPU(dev);

    if (s->connected) {
        s->connected = false;
        vgpu_stop(s);
        vhost_dev_cleanup(&s->vhost);
        /* Sets NEEDS_RESET and sends the configuration notification. A driver that has not begun needs no reset. */
        if ((vdev->status & VIRTIO_CONFIG_S_DRIVER_OK) && !vdev->broken) {
            virtio_error(vdev, "vhost-user-vgpu: the backend is gone; the guest is told to reset the device");
        }
    }
    qemu_chr_fe_set_handlers(&s->chardev, NULL, NULL, vgpu_event, NULL, dev, NULL, true);
}

static void vgpu_event(void *opaque, QEMUChrEvent event)
{
    DeviceState *dev = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VGpu *s = VGPU(dev);
    Error *err = NULL;

    if (event == CHR_EVENT_OPENED) {
        bool returned = !s->connected;

        if (vgpu_connect(s, &err) < 0) {
            if (!s->complained) {
                error_reportf_err(err, "vhost-user-vgpu: ");
                s->complained = true;
            } else {
                error_free(err);
            }
            qemu_chr_fe_disconnect(&s->chardev);
            return;
        }
        s->complained = false;
        if (returned) {
            info_report("vhost-user-vgpu: the backend is back");
            /* A driver that reset the device meanwhile waits for this; for all others it is a harmless hint. */
            vgpu_set_status(vdev, vdev->status);
            virtio_notify_config(vdev);
        }
    } else if (event == CHR_EVENT_CLOSED) {
        /* This may come out of the middle of a call into vhost: clean up later. */
        vhost_user_async_close(dev, &s->chardev, &s->vhost, vgpu_disconnect);
    }
}

/*
 * Waits for the connection, for as long as the timeout allows while QEMU starts: daemon and guest are often started
 * together. A guest that runs is not kept waiting, a hot-plugged device has one try.
 */
static int vgpu_wait_connected(VGpu *s, Error **errp)
{
    SocketChardev *socket = SOCKET_CHARDEV(s->chardev.chr);
    int64_t reconnect_ms = socket->reconnect_time_ms;
    int64_t deadline = qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + s->timeout_s * 1000LL;
    Error *err = NULL;
    int ret;

    for (;;) {
        /* With a reconnect interval the function below never gives up. */
        socket->reconnect_time_ms = 0;
        ret = qemu_chr_fe_wait_connected(&s->chardev, &err);
        socket->reconnect_time_ms = reconnect_ms;
        if (ret >= 0) {
            return 0;
        }
        if (DEVICE(s)->hotplugged || qemu_clock_get_ms(QEMU_CLOCK_REALTIME) >= deadline) {
            break;
        }
        error_free(err);
        err = NULL;
        g_usleep(100 * 1000);
    }
    error_propagate_prepend(errp, err, "no vgpu backend (start vhost-user-vgpu first): ");
    return ret;
}

/* --- The virtio device --------------------------------------------------------------------------------------------- */

static uint64_t vgpu_get_features(VirtIODevice *vdev, uint64_t features, Error **errp)
{
    /* Decided here: what QEMU's transport and queues know. From the backend: what concerns the device alone. */
    static const int shared[] = {
        VIRTIO_F_VERSION_1, VIRTIO_F_IOMMU_PLATFORM, VIRTIO_F_RING_PACKED, VIRTIO_F_RING_RESET, VIRTIO_F_ORDER_PLATFORM,
        VIRTIO_F_IN_ORDER, VIRTIO_F_NOTIFICATION_DATA, VIRTIO_RING_F_INDIRECT_DESC, VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_F_NOTIFY_ON_EMPTY,
    };
    VGpu *s = VGPU(vdev);

    for (size_t i = 0; i < ARRAY_SIZE(shared); i++) {
        if (!virtio_has_feature(s->features, shared[i])) {
            virtio_clear_feature(&features, shared[i]);
        }
    }
    return features | (s->features & MAKE_64BIT_MASK(0, 24));
}

static void vgpu_get_config(VirtIODevice *vdev, uint8_t *config)
{
    memcpy(config, VGPU(vdev)->config, VGPU_CONFIG_SIZE);
}

/* Lets virtio_reset() send RESET_DEVICE to a backend that offers it. */
static struct vhost_dev *vgpu_get_vhost(VirtIODevice *vdev)
{
    VGpu *s = VGPU(vdev);

    return s->connected ? &s->vhost : NULL;
}

/* The backend serves the queues; virtio's clean-up wants a handler to be there. */
static void vgpu_handle_output(VirtIODevice *vdev, VirtQueue *vq)
{
}

static bool vgpu_check_chardev(VGpu *s, Error **errp)
{
    Chardev *chr = s->chardev.chr;

    if (!chr) {
        error_setg(errp, "chardev= is missing: it names the connection to the backend, "
                   "-chardev socket,id=vgpu,path=SOCKET,reconnect-ms=1000");
        return false;
    }
    if (!object_dynamic_cast(OBJECT(chr), TYPE_CHARDEV_SOCKET) || SOCKET_CHARDEV(chr)->is_listen) {
        error_setg(errp, "chardev '%s' must be a socket that connects (type socket, not server=on)", chr->label);
        return false;
    }
    return true;
}

/* Each of these would otherwise end in a guest that sees a device which cannot work. */
static bool vgpu_check_memory(Error **errp)
{
    MemoryRegion *ram = current_machine->ram;

    /* Memory of several NUMA nodes has no single block; what is wrong with it is found when the queues start. */
    if (!ram || !memory_region_is_ram(ram) || !ram->ram_block) {
        return true;
    }
    if (memory_region_get_fd(ram) < 0 || !qemu_ram_is_shared(ram->ram_block)) {
        error_setg(errp, "the guest's memory is private to QEMU, the backend could not see it; add "
                   "-object memory-backend-memfd,id=mem,size=%" PRIu64 "M,share=on -machine memory-backend=mem",
                   current_machine->ram_size / MiB);
        return false;
    }
    if (qemu_ram_pagesize(ram->ram_block) > VGPU_LARGEST_PAGE) {
        error_setg(errp, "the guest's memory consists of pages of %zu MiB; pages of at most 2 MiB can be served",
                   qemu_ram_pagesize(ram->ram_block) / MiB);
        return false;
    }
    return true;
}

static void vgpu_realize(DeviceState *dev, Error **errp)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VGpu *s = VGPU(dev);

    if (!vgpu_check_chardev(s, errp) || !vgpu_check_memory(errp)) {
        return;
    }
    if (s->virtio_id < 1 || s->virtio_id > VGPU_LAST_ID) {
        error_setg(errp, "virtio-id must be 1 to %d", VGPU_LAST_ID);
        return;
    }
    if (s->timeout_s < 1 || s->timeout_s > 3600) {
        error_setg(errp, "timeout must be 1 to 3600 seconds");
        return;
    }
    if (ram_block_discard_disable(true)) {
        error_setg(errp, "another device takes memory back from the guest while it runs (virtio-mem); "
                   "the GPU's driver has it mapped, remove that device");
        return;
    }
    error_setg(&s->migration_blocker, "vhost-user-vgpu: a guest with this device cannot be migrated, saved or "
               "snapshotted: what its programs hold lies in the host's GPU; shut it down or unplug the device first");
    if (migrate_add_blocker(&s->migration_blocker, errp) < 0) {
        goto fail_blocker;
    }
    if (!vhost_user_init(&s->vhost_user, &s->chardev, errp)) {
        goto fail_vhost_user;
    }
    /* virtio_init() knows the assigned ids only and aborts on others, so it gets one of them at first. */
    virtio_init(vdev, VIRTIO_ID_RNG, VGPU_CONFIG_SIZE);
    vdev->device_id = s->virtio_id;
    vdev->name = "vhost-user-vgpu";
    vdev->use_guest_notifier_mask = false;
    for (int i = 0; i < VGPU_QUEUES; i++) {
        s->queues[i] = virtio_add_queue(vdev, VGPU_QUEUE_SIZE, vgpu_handle_output);
    }
    watchdog_start(s);

    if (vgpu_wait_connected(s, errp) < 0) {
        goto fail_connect;
    }
    if (vgpu_connect(s, errp) < 0) {
        qemu_chr_fe_disconnect(&s->chardev);
        goto fail_connect;
    }
    qemu_chr_fe_set_handlers(&s->chardev, NULL, NULL, vgpu_event, NULL, dev, NULL, true);
    return;

fail_connect:
    watchdog_stop(s);
    for (int i = 0; i < VGPU_QUEUES; i++) {
        virtio_delete_queue(s->queues[i]);
    }
    virtio_cleanup(vdev);
    vhost_user_cleanup(&s->vhost_user);
fail_vhost_user:
    migrate_del_blocker(&s->migration_blocker);
fail_blocker:
    ram_block_discard_disable(false);
}

static void vgpu_unrealize(DeviceState *dev)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VGpu *s = VGPU(dev);

    virtio_set_status(vdev, 0);
    qemu_chr_fe_set_handlers(&s->chardev, NULL, NULL, NULL, NULL, NULL, NULL, false);
    if (s->connected) {
        s->connected = false;
        vhost_dev_cleanup(&s->vhost);
    }
    /* A connection has one owner (SET_OWNER): a device plugged in later begins with a new one. */
    qemu_chr_fe_disconnect(&s->chardev);
    watchdog_stop(s);
    for (int i = 0; i < VGPU_QUEUES; i++) {
        virtio_delete_queue(s->queues[i]);
    }
    virtio_cleanup(vdev);
    vhost_user_cleanup(&s->vhost_user);
    migrate_del_blocker(&s->migration_blocker);
    ram_block_discard_disable(false);
}

static const Property vgpu_properties[] = {
    DEFINE_PROP_CHR("chardev", VGpu, chardev),
    DEFINE_PROP_UINT16("virtio-id", VGpu, virtio_id, VGPU_DEFAULT_ID),
    DEFINE_PROP_UINT32("timeout", VGpu, timeout_s, 15),
};

static void vgpu_class_init(ObjectClass *klass, VGPU_CLASS_DATA *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    VirtioDeviceClass *vdc = VIRTIO_DEVICE_CLASS(klass);

    device_class_set_props(dc, vgpu_properties);
    object_class_property_set_description(klass, "chardev",
        "ID of the socket chardev that leads to the vgpu daemon (use reconnect-ms= there to survive its restart)");
    object_class_property_set_description(klass, "virtio-id",
        "virtio device id, 1 to 191; the PCI device id is 0x1040 more (176: 1af4:10f0)");
    object_class_property_set_description(klass, "timeout",
        "seconds to wait for any answer of the daemon before it is taken for dead");
    dc->desc = "GPU of the host, computing over shared memory (vgpu daemon)";
    dc->user_creatable = false;
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    vdc->realize = vgpu_realize;
    vdc->unrealize = vgpu_unrealize;
    vdc->get_features = vgpu_get_features;
    vdc->get_config = vgpu_get_config;
    vdc->set_status = vgpu_set_status;
    vdc->get_vhost = vgpu_get_vhost;
}

static const TypeInfo vgpu_info = {
    .name = TYPE_VGPU,
    .parent = TYPE_VIRTIO_DEVICE,
    .instance_size = sizeof(VGpu),
    .class_init = vgpu_class_init,
};

/* --- Its PCI function ---------------------------------------------------------------------------------------------- */

typedef struct VGpuPci {
    VirtIOPCIProxy parent_obj;
    VGpu vgpu;
} VGpuPci;

DECLARE_INSTANCE_CHECKER(VGpuPci, VGPU_PCI, TYPE_VGPU_PCI "-base")

static const Property vgpu_pci_properties[] = {
    DEFINE_PROP_UINT32("vectors", VirtIOPCIProxy, nvectors, VGPU_VECTORS),
};

static void vgpu_pci_realize(VirtIOPCIProxy *proxy, Error **errp)
{
    qdev_realize(DEVICE(&VGPU_PCI(proxy)->vgpu), BUS(&proxy->bus), errp);
}

static void vgpu_pci_class_init(ObjectClass *klass, VGPU_CLASS_DATA *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *pci = PCI_DEVICE_CLASS(klass);

    VIRTIO_PCI_CLASS(klass)->realize = vgpu_pci_realize;
    device_class_set_props(dc, vgpu_pci_properties);
    object_class_property_set_description(klass, "vectors",
        "MSI-X vectors: one for the configuration and one for each of the two queues");
    dc->desc = "GPU of the host, computing over shared memory (vgpu daemon)";
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    pci->vendor_id = PCI_VENDOR_ID_REDHAT_QUMRANET;
    pci->device_id = 0; /* virtio-pci computes it from the virtio id */
    pci->class_id = 0x1200; /* processing accelerator */
}

static void vgpu_pci_instance_init(Object *obj)
{
    virtio_instance_init_common(obj, &VGPU_PCI(obj)->vgpu, sizeof(VGpu), TYPE_VGPU);
}

static const VirtioPCIDeviceTypeInfo vgpu_pci_info = {
    .base_name = TYPE_VGPU_PCI "-base",
    .non_transitional_name = TYPE_VGPU_PCI,
    .instance_size = sizeof(VGpuPci),
    .instance_init = vgpu_pci_instance_init,
    .class_init = vgpu_pci_class_init,
};

/* QEMU's own table of aliases is compiled in; a type that adds nothing does the same. */
static const TypeInfo vgpu_pci_alias_info = {
    .name = "vhost-user-vgpu",
    .parent = TYPE_VGPU_PCI,
};

#ifdef VGPU_OUT_OF_TREE
/*
 * The layout of QEMU's structures is compiled in here, and distributions change it in stable updates. With any other
 * build than the one whose headers were used the device stays away, and says so.
 */
static bool vgpu_built_for_this_qemu(void)
{
    VersionInfo *info = qmp_query_version(NULL);
    g_autofree char *version = g_strdup_printf("%" PRId64 ".%" PRId64 ".%" PRId64,
                                               info->qemu->major, info->qemu->minor, info->qemu->micro);
    bool same = g_str_equal(version, QEMU_VERSION) && g_str_equal(info->package, QEMU_PKGVERSION);

    if (!same) {
        /* Too early for error_report(), which needs the monitor. */
        fprintf(stderr, "vhost-user-vgpu: built for QEMU %s (%s), but this is QEMU %s (%s); the device is not "
                "available, build it again (cargo xtask qemu)\n",
                QEMU_VERSION, QEMU_PKGVERSION, version, info->package);
    }
    qapi_free_VersionInfo(info);
    return same;
}
#endif

static void vgpu_register(void)
{
#ifdef VGPU_OUT_OF_TREE
    if (!vgpu_built_for_this_qemu()) {
        return;
    }
#endif
    type_register_static(&vgpu_info);
    virtio_pci_types_register(&vgpu_pci_info);
    type_register_static(&vgpu_pci_alias_info);
}

#ifdef VGPU_OUT_OF_TREE
static void __attribute__((constructor)) vgpu_load(void)
{
    void (*add)(void (*)(void), module_init_type) = dlsym(RTLD_DEFAULT, "register_module_init");

    if (add) { /* else this process is not QEMU */
        add(vgpu_register, MODULE_INIT_QOM);
    }
}
#else
type_init(vgpu_register)
#endif

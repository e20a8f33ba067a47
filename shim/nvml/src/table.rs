//! The one table of NVML's functions: every symbol of the 580-series `libnvidia-ml.so.1`, declared once.
//!
//! [`nvml_functions!`](crate::nvml_functions) hands it to a macro of the caller's. A row of the first part says which function of this crate
//! answers an export:
//!
//! ```text
//! export = module::function(argument: type, …);
//! ```
//!
//! Old names of the same ABI have rows of their own. The second part lists all other exports: they are refused with
//! `NVML_ERROR_NOT_SUPPORTED`, before `nvmlInit` with `NVML_ERROR_UNINITIALIZED`, and named once in the log.
//! `nvmlErrorString` alone stands outside: it returns a text.

/// Calls `$callback!` with the whole table; see the [module documentation](self).
#[macro_export]
macro_rules! nvml_functions {
    ($callback:ident) => { $callback! { answered {
        // Initialisation and the host.
        nvmlInit = system::init();
        nvmlInit_v2 = system::init();
        nvmlInitWithFlags = system::init_with_flags(flags: c_uint);
        nvmlShutdown = system::shutdown();
        nvmlSystemGetDriverVersion = system::driver_version(version: *mut c_char, length: c_uint);
        nvmlSystemGetNVMLVersion = system::nvml_version(version: *mut c_char, length: c_uint);
        nvmlSystemGetCudaDriverVersion = system::cuda_version(version: *mut c_int);
        nvmlSystemGetCudaDriverVersion_v2 = system::cuda_version(version: *mut c_int);
        nvmlSystemGetProcessName = system::process_name(process: c_uint, name: *mut c_char, length: c_uint);
        nvmlUnitGetCount = system::none(count: *mut c_uint);
        nvmlGetExcludedDeviceCount = system::none(count: *mut c_uint);
        nvmlGetBlacklistDeviceCount = system::none(count: *mut c_uint);
        nvmlInternalGetExportTable = private::table(table: *mut *const c_void, id: *const [u8; 16]);
        // Finding devices.
        nvmlDeviceGetCount = device::count(count: *mut c_uint);
        nvmlDeviceGetCount_v2 = device::count(count: *mut c_uint);
        nvmlDeviceGetHandleByIndex = device::by_index(index: c_uint, device: *mut nvmlDevice_t);
        nvmlDeviceGetHandleByIndex_v2 = device::by_index(index: c_uint, device: *mut nvmlDevice_t);
        nvmlDeviceGetHandleByUUID = device::by_uuid(uuid: *const c_char, device: *mut nvmlDevice_t);
        nvmlDeviceGetHandleByUUIDV = device::by_uuid_struct(uuid: *const nvmlUUID_t, device: *mut nvmlDevice_t);
        nvmlDeviceGetHandleByPciBusId = device::by_pci_bus_id(id: *const c_char, device: *mut nvmlDevice_t);
        nvmlDeviceGetHandleByPciBusId_v2 = device::by_pci_bus_id(id: *const c_char, device: *mut nvmlDevice_t);
        // What a device is.
        nvmlDeviceGetName = device::name(device: nvmlDevice_t, name: *mut c_char, length: c_uint);
        nvmlDeviceGetUUID = device::uuid(device: nvmlDevice_t, uuid: *mut c_char, length: c_uint);
        nvmlDeviceGetIndex = device::index(device: nvmlDevice_t, index: *mut c_uint);
        nvmlDeviceGetMinorNumber = device::minor(device: nvmlDevice_t, minor: *mut c_uint);
        nvmlDeviceGetBoardPartNumber = device::board_part(device: nvmlDevice_t, part: *mut c_char, length: c_uint);
        nvmlDeviceGetVbiosVersion = device::vbios(device: nvmlDevice_t, version: *mut c_char, length: c_uint);
        nvmlDeviceGetBrand = device::brand(device: nvmlDevice_t, brand: *mut nvmlBrandType_t);
        nvmlDeviceGetArchitecture = device::architecture(device: nvmlDevice_t, architecture: *mut nvmlDeviceArchitecture_t);
        nvmlDeviceGetCudaComputeCapability = device::capability(device: nvmlDevice_t, major: *mut c_int, minor: *mut c_int);
        nvmlDeviceGetComputeMode = device::compute_mode(device: nvmlDevice_t, mode: *mut nvmlComputeMode_t);
        nvmlDeviceGetNumGpuCores = device::cores(device: nvmlDevice_t, cores: *mut c_uint);
        nvmlDeviceGetMemoryBusWidth = device::bus_width(device: nvmlDevice_t, bits: *mut c_uint);
        nvmlDeviceGetMaxPcieLinkGeneration = device::max_link_generation(device: nvmlDevice_t, generation: *mut c_uint);
        nvmlDeviceGetMaxPcieLinkWidth = device::max_link_width(device: nvmlDevice_t, lanes: *mut c_uint);
        nvmlDeviceIsMigDeviceHandle = device::is_mig(device: nvmlDevice_t, is_mig: *mut c_uint);
        nvmlDeviceGetP2PStatus = device::p2p_status(first: nvmlDevice_t, second: nvmlDevice_t, index: nvmlGpuP2PCapsIndex_t, status: *mut nvmlGpuP2PStatus_t);
        nvmlDeviceGetFieldValues = device::field_values(device: nvmlDevice_t, count: c_int, values: *mut nvmlFieldValue_t);
        nvmlDeviceGetPciInfo = pci::info_v1(device: nvmlDevice_t, pci: *mut pci::PciInfoV1);
        nvmlDeviceGetPciInfo_v2 = pci::info_v2(device: nvmlDevice_t, pci: *mut pci::PciInfoV2);
        nvmlDeviceGetPciInfo_v3 = pci::info_v3(device: nvmlDevice_t, pci: *mut nvmlPciInfo_t);
        nvmlDeviceGetPciInfoExt = pci::info_ext(device: nvmlDevice_t, pci: *mut nvmlPciInfoExt_t);
        // What happens on it.
        nvmlDeviceGetMemoryInfo = memory::info(device: nvmlDevice_t, memory: *mut nvmlMemory_t);
        nvmlDeviceGetMemoryInfo_v2 = memory::info_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t);
        nvmlDeviceGetComputeRunningProcesses = process::compute_v1(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v1_t);
        nvmlDeviceGetComputeRunningProcesses_v2 = process::compute(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t);
        nvmlDeviceGetComputeRunningProcesses_v3 = process::compute(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t);
        nvmlDeviceGetGraphicsRunningProcesses = process::none(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t);
        nvmlDeviceGetGraphicsRunningProcesses_v2 = process::none(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t);
        nvmlDeviceGetGraphicsRunningProcesses_v3 = process::none(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t);
        nvmlDeviceGetMPSComputeRunningProcesses = process::none(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t);
        nvmlDeviceGetMPSComputeRunningProcesses_v2 = process::none(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t);
        nvmlDeviceGetMPSComputeRunningProcesses_v3 = process::none(device: nvmlDevice_t, count: *mut c_uint, infos: *mut nvmlProcessInfo_v2_t);
        nvmlEventSetCreate = event::create(set: *mut nvmlEventSet_t);
        nvmlEventSetFree = event::free(set: nvmlEventSet_t);
        nvmlEventSetWait = event::wait(set: nvmlEventSet_t, data: *mut nvmlEventData_t, timeout: c_uint);
        nvmlEventSetWait_v2 = event::wait(set: nvmlEventSet_t, data: *mut nvmlEventData_t, timeout: c_uint);
        // What it does for everybody: told where the operator says so.
        nvmlDeviceGetUtilizationRates = figures::utilization(device: nvmlDevice_t, rates: *mut nvmlUtilization_t);
        nvmlDeviceGetEncoderUtilization = figures::encoder(device: nvmlDevice_t, percent: *mut c_uint, period: *mut c_uint);
        nvmlDeviceGetDecoderUtilization = figures::decoder(device: nvmlDevice_t, percent: *mut c_uint, period: *mut c_uint);
        nvmlDeviceGetClockInfo = figures::clock(device: nvmlDevice_t, which: nvmlClockType_t, mhz: *mut c_uint);
        nvmlDeviceGetMaxClockInfo = figures::max_clock(device: nvmlDevice_t, which: nvmlClockType_t, mhz: *mut c_uint);
        nvmlDeviceGetClock = figures::clock_by_id(device: nvmlDevice_t, which: nvmlClockType_t, id: nvmlClockId_t, mhz: *mut c_uint);
        nvmlDeviceGetCurrentClocksEventReasons = figures::clocks_reasons(device: nvmlDevice_t, reasons: *mut c_ulonglong);
        nvmlDeviceGetCurrentClocksThrottleReasons = figures::clocks_reasons(device: nvmlDevice_t, reasons: *mut c_ulonglong);
        nvmlDeviceGetSupportedClocksEventReasons = figures::supported_clocks_reasons(device: nvmlDevice_t, reasons: *mut c_ulonglong);
        nvmlDeviceGetSupportedClocksThrottleReasons = figures::supported_clocks_reasons(device: nvmlDevice_t, reasons: *mut c_ulonglong);
        nvmlDeviceGetTemperature = figures::temperature(device: nvmlDevice_t, sensor: nvmlTemperatureSensors_t, degrees: *mut c_uint);
        nvmlDeviceGetTemperatureV = figures::temperature_struct(device: nvmlDevice_t, temperature: *mut nvmlTemperature_t);
        nvmlDeviceGetTemperatureThreshold = figures::temperature_threshold(device: nvmlDevice_t, which: nvmlTemperatureThresholds_t, degrees: *mut c_uint);
        nvmlDeviceGetPowerUsage = figures::power(device: nvmlDevice_t, milliwatts: *mut c_uint);
        nvmlDeviceGetEnforcedPowerLimit = figures::power_enforced(device: nvmlDevice_t, milliwatts: *mut c_uint);
        nvmlDeviceGetPowerManagementLimit = figures::power_limit(device: nvmlDevice_t, milliwatts: *mut c_uint);
        nvmlDeviceGetPowerManagementDefaultLimit = figures::power_default(device: nvmlDevice_t, milliwatts: *mut c_uint);
        nvmlDeviceGetPowerManagementLimitConstraints = figures::power_range(device: nvmlDevice_t, low: *mut c_uint, high: *mut c_uint);
        nvmlDeviceGetTotalEnergyConsumption = figures::energy(device: nvmlDevice_t, millijoules: *mut c_ulonglong);
        nvmlDeviceGetPerformanceState = figures::performance_state(device: nvmlDevice_t, state: *mut nvmlPstates_t);
        nvmlDeviceGetPowerState = figures::performance_state(device: nvmlDevice_t, state: *mut nvmlPstates_t);
        nvmlDeviceGetNumFans = figures::fans(device: nvmlDevice_t, count: *mut c_uint);
        nvmlDeviceGetFanSpeed = figures::fan_speed(device: nvmlDevice_t, percent: *mut c_uint);
        nvmlDeviceGetFanSpeed_v2 = figures::fan_speed_of(device: nvmlDevice_t, fan: c_uint, percent: *mut c_uint);
        nvmlDeviceGetCurrPcieLinkGeneration = figures::link_generation(device: nvmlDevice_t, generation: *mut c_uint);
        nvmlDeviceGetCurrPcieLinkWidth = figures::link_width(device: nvmlDevice_t, lanes: *mut c_uint);
        nvmlDeviceGetPcieThroughput = figures::link_throughput(device: nvmlDevice_t, direction: nvmlPcieUtilCounter_t, kilobytes: *mut c_uint);
        nvmlDeviceGetPcieReplayCounter = figures::link_replays(device: nvmlDevice_t, count: *mut c_uint);
        nvmlDeviceGetEccMode = figures::ecc(device: nvmlDevice_t, current: *mut nvmlEnableState_t, pending: *mut nvmlEnableState_t);
        nvmlDeviceGetTotalEccErrors = figures::ecc_errors(device: nvmlDevice_t, kind: nvmlMemoryErrorType_t, counter: nvmlEccCounterType_t, count: *mut c_ulonglong);
        nvmlDeviceGetPersistenceMode = figures::persistence(device: nvmlDevice_t, mode: *mut nvmlEnableState_t);
    } refused {
        nvmlComputeInstanceDestroy nvmlComputeInstanceGetInfo nvmlComputeInstanceGetInfo_v2
        nvmlDeviceClearAccountingPids nvmlDeviceClearCpuAffinity nvmlDeviceClearEccErrorCounts
        nvmlDeviceClearFieldValues nvmlDeviceCreateGpuInstance nvmlDeviceCreateGpuInstanceWithPlacement
        nvmlDeviceDiscoverGpus nvmlDeviceFreezeNvLinkUtilizationCounter nvmlDeviceGetAPIRestriction
        nvmlDeviceGetAccountingBufferSize nvmlDeviceGetAccountingMode nvmlDeviceGetAccountingPids
        nvmlDeviceGetAccountingStats nvmlDeviceGetActiveVgpus nvmlDeviceGetAdaptiveClockInfoStatus
        nvmlDeviceGetAddressingMode nvmlDeviceGetApplicationsClock nvmlDeviceGetAttributes
        nvmlDeviceGetAttributes_v2 nvmlDeviceGetAutoBoostedClocksEnabled nvmlDeviceGetBAR1MemoryInfo
        nvmlDeviceGetBoardId nvmlDeviceGetBridgeChipInfo nvmlDeviceGetBusType nvmlDeviceGetC2cModeInfoV
        nvmlDeviceGetCapabilities nvmlDeviceGetClkMonStatus nvmlDeviceGetClockOffsets
        nvmlDeviceGetComputeInstanceId nvmlDeviceGetConfComputeGpuAttestationReport
        nvmlDeviceGetConfComputeGpuCertificate nvmlDeviceGetConfComputeMemSizeInfo
        nvmlDeviceGetConfComputeProtectedMemoryUsage nvmlDeviceGetCoolerInfo nvmlDeviceGetCpuAffinity
        nvmlDeviceGetCpuAffinityWithinScope nvmlDeviceGetCreatableVgpus nvmlDeviceGetCurrentClockFreqs
        nvmlDeviceGetDefaultApplicationsClock nvmlDeviceGetDefaultEccMode nvmlDeviceGetDetailedEccErrors
        nvmlDeviceGetDeviceHandleFromMigDeviceHandle nvmlDeviceGetDisplayActive nvmlDeviceGetDisplayMode
        nvmlDeviceGetDramEncryptionMode nvmlDeviceGetDriverModel nvmlDeviceGetDriverModel_v2
        nvmlDeviceGetDynamicPstatesInfo nvmlDeviceGetEncoderCapacity nvmlDeviceGetEncoderSessions
        nvmlDeviceGetEncoderStats nvmlDeviceGetFBCSessions nvmlDeviceGetFBCStats
        nvmlDeviceGetFanControlPolicy_v2 nvmlDeviceGetFanSpeedRPM nvmlDeviceGetGpcClkMinMaxVfOffset
        nvmlDeviceGetGpcClkVfOffset nvmlDeviceGetGpuFabricInfo nvmlDeviceGetGpuFabricInfoV
        nvmlDeviceGetGpuInstanceById nvmlDeviceGetGpuInstanceId nvmlDeviceGetGpuInstancePossiblePlacements
        nvmlDeviceGetGpuInstancePossiblePlacements_v2 nvmlDeviceGetGpuInstanceProfileInfo
        nvmlDeviceGetGpuInstanceProfileInfoByIdV nvmlDeviceGetGpuInstanceProfileInfoV
        nvmlDeviceGetGpuInstanceRemainingCapacity nvmlDeviceGetGpuInstances
        nvmlDeviceGetGpuMaxPcieLinkGeneration nvmlDeviceGetGpuOperationMode nvmlDeviceGetGridLicensableFeatures
        nvmlDeviceGetGridLicensableFeatures_v2 nvmlDeviceGetGridLicensableFeatures_v3
        nvmlDeviceGetGridLicensableFeatures_v4 nvmlDeviceGetGspFirmwareMode nvmlDeviceGetGspFirmwareVersion
        nvmlDeviceGetHandleBySerial nvmlDeviceGetHostVgpuMode nvmlDeviceGetHostname_v1
        nvmlDeviceGetInforomConfigurationChecksum nvmlDeviceGetInforomImageVersion nvmlDeviceGetInforomVersion
        nvmlDeviceGetIrqNum nvmlDeviceGetJpgUtilization nvmlDeviceGetLastBBXFlushTime
        nvmlDeviceGetMarginTemperature nvmlDeviceGetMaxCustomerBoostClock nvmlDeviceGetMaxMigDeviceCount
        nvmlDeviceGetMemClkMinMaxVfOffset nvmlDeviceGetMemClkVfOffset nvmlDeviceGetMemoryAffinity
        nvmlDeviceGetMemoryErrorCounter nvmlDeviceGetMigDeviceHandleByIndex nvmlDeviceGetMigMode
        nvmlDeviceGetMinMaxClockOfPState nvmlDeviceGetMinMaxFanSpeed nvmlDeviceGetModuleId
        nvmlDeviceGetMultiGpuBoard nvmlDeviceGetNumaNodeId nvmlDeviceGetNvLinkCapability
        nvmlDeviceGetNvLinkErrorCounter nvmlDeviceGetNvLinkInfo nvmlDeviceGetNvLinkRemoteDeviceType
        nvmlDeviceGetNvLinkRemotePciInfo nvmlDeviceGetNvLinkRemotePciInfo_v2 nvmlDeviceGetNvLinkState
        nvmlDeviceGetNvLinkUtilizationControl nvmlDeviceGetNvLinkUtilizationCounter nvmlDeviceGetNvLinkVersion
        nvmlDeviceGetNvlinkBwMode nvmlDeviceGetNvlinkSupportedBwModes nvmlDeviceGetOfaUtilization
        nvmlDeviceGetPcieLinkMaxSpeed nvmlDeviceGetPcieSpeed nvmlDeviceGetPdi
        nvmlDeviceGetPerformanceModes nvmlDeviceGetPgpuMetadataString nvmlDeviceGetPlatformInfo
        nvmlDeviceGetPowerManagementMode nvmlDeviceGetPowerMizerMode_v1 nvmlDeviceGetPowerSource
        nvmlDeviceGetProcessUtilization nvmlDeviceGetProcessesUtilizationInfo nvmlDeviceGetRemappedRows
        nvmlDeviceGetRemappedRows_v2 nvmlDeviceGetRepairStatus nvmlDeviceGetRetiredPages
        nvmlDeviceGetRetiredPagesPendingStatus nvmlDeviceGetRetiredPages_v2 nvmlDeviceGetRowRemapperHistogram
        nvmlDeviceGetRunningProcessDetailList nvmlDeviceGetSamples nvmlDeviceGetSerial
        nvmlDeviceGetSramEccErrorStatus nvmlDeviceGetSramUniqueUncorrectedEccErrorCounts
        nvmlDeviceGetSupportedEventTypes nvmlDeviceGetSupportedGraphicsClocks nvmlDeviceGetSupportedMemoryClocks
        nvmlDeviceGetSupportedPerformanceStates nvmlDeviceGetSupportedVgpus nvmlDeviceGetTargetFanSpeed
        nvmlDeviceGetThermalSettings nvmlDeviceGetTopologyCommonAncestor nvmlDeviceGetTopologyNearestGpus
        nvmlDeviceGetUnrepairableMemoryFlag_v1 nvmlDeviceGetVgpuCapabilities nvmlDeviceGetVgpuHeterogeneousMode
        nvmlDeviceGetVgpuInstancesUtilizationInfo nvmlDeviceGetVgpuMetadata nvmlDeviceGetVgpuProcessUtilization
        nvmlDeviceGetVgpuProcessesUtilizationInfo nvmlDeviceGetVgpuSchedulerCapabilities
        nvmlDeviceGetVgpuSchedulerLog nvmlDeviceGetVgpuSchedulerState nvmlDeviceGetVgpuTypeCreatablePlacements
        nvmlDeviceGetVgpuTypeSupportedPlacements nvmlDeviceGetVgpuUtilization nvmlDeviceGetViolationStatus
        nvmlDeviceGetVirtualizationMode nvmlDeviceModifyDrainState nvmlDeviceOnSameBoard
        nvmlDevicePowerSmoothingActivatePresetProfile nvmlDevicePowerSmoothingSetState
        nvmlDevicePowerSmoothingUpdatePresetProfileParam nvmlDeviceQueryDrainState nvmlDeviceReadPRMCounters_v1
        nvmlDeviceReadWritePRM_v1 nvmlDeviceRegisterEvents nvmlDeviceRemoveGpu nvmlDeviceRemoveGpu_v2
        nvmlDeviceResetApplicationsClocks nvmlDeviceResetGpuLockedClocks nvmlDeviceResetMemoryLockedClocks
        nvmlDeviceResetNvLinkErrorCounters nvmlDeviceResetNvLinkUtilizationCounter nvmlDeviceSetAPIRestriction
        nvmlDeviceSetAccountingMode nvmlDeviceSetApplicationsClocks nvmlDeviceSetAutoBoostedClocksEnabled
        nvmlDeviceSetClockOffsets nvmlDeviceSetComputeMode nvmlDeviceSetConfComputeUnprotectedMemSize
        nvmlDeviceSetCpuAffinity nvmlDeviceSetDefaultAutoBoostedClocksEnabled nvmlDeviceSetDefaultFanSpeed_v2
        nvmlDeviceSetDramEncryptionMode nvmlDeviceSetDriverModel nvmlDeviceSetEccMode
        nvmlDeviceSetFanControlPolicy nvmlDeviceSetFanSpeed_v2 nvmlDeviceSetGpcClkVfOffset
        nvmlDeviceSetGpuLockedClocks nvmlDeviceSetGpuOperationMode nvmlDeviceSetHostname_v1
        nvmlDeviceSetMemClkVfOffset nvmlDeviceSetMemoryLockedClocks nvmlDeviceSetMigMode
        nvmlDeviceSetNvLinkDeviceLowPowerThreshold nvmlDeviceSetNvLinkUtilizationControl
        nvmlDeviceSetNvlinkBwMode nvmlDeviceSetPersistenceMode nvmlDeviceSetPowerManagementLimit
        nvmlDeviceSetPowerManagementLimit_v2 nvmlDeviceSetPowerMizerMode_v1 nvmlDeviceSetTemperatureThreshold
        nvmlDeviceSetVgpuCapabilities nvmlDeviceSetVgpuHeterogeneousMode nvmlDeviceSetVgpuSchedulerState
        nvmlDeviceSetVirtualizationMode nvmlDeviceValidateInforom
        nvmlDeviceWorkloadPowerProfileClearRequestedProfiles nvmlDeviceWorkloadPowerProfileGetCurrentProfiles
        nvmlDeviceWorkloadPowerProfileGetProfilesInfo nvmlDeviceWorkloadPowerProfileSetRequestedProfiles
        nvmlGetBlacklistDeviceInfoByIndex nvmlGetExcludedDeviceInfoByIndex nvmlGetVgpuCompatibility
        nvmlGetVgpuDriverCapabilities nvmlGetVgpuVersion nvmlGpmMetricsGet nvmlGpmMigSampleGet
        nvmlGpmQueryDeviceSupport nvmlGpmQueryIfStreamingEnabled nvmlGpmSampleAlloc nvmlGpmSampleFree
        nvmlGpmSampleGet nvmlGpmSetStreamingEnabled nvmlGpuInstanceCreateComputeInstance
        nvmlGpuInstanceCreateComputeInstanceWithPlacement nvmlGpuInstanceDestroy nvmlGpuInstanceGetActiveVgpus
        nvmlGpuInstanceGetComputeInstanceById nvmlGpuInstanceGetComputeInstancePossiblePlacements
        nvmlGpuInstanceGetComputeInstanceProfileInfo nvmlGpuInstanceGetComputeInstanceProfileInfoV
        nvmlGpuInstanceGetComputeInstanceRemainingCapacity nvmlGpuInstanceGetComputeInstances
        nvmlGpuInstanceGetCreatableVgpus nvmlGpuInstanceGetInfo nvmlGpuInstanceGetVgpuHeterogeneousMode
        nvmlGpuInstanceGetVgpuSchedulerLog nvmlGpuInstanceGetVgpuSchedulerState
        nvmlGpuInstanceGetVgpuTypeCreatablePlacements nvmlGpuInstanceSetVgpuHeterogeneousMode
        nvmlGpuInstanceSetVgpuSchedulerState nvmlSetVgpuVersion nvmlSystemEventSetCreate nvmlSystemEventSetFree
        nvmlSystemEventSetWait nvmlSystemGetConfComputeCapabilities nvmlSystemGetConfComputeGpusReadyState
        nvmlSystemGetConfComputeKeyRotationThresholdInfo nvmlSystemGetConfComputeSettings
        nvmlSystemGetConfComputeState nvmlSystemGetDriverBranch nvmlSystemGetHicVersion
        nvmlSystemGetNvlinkBwMode nvmlSystemGetTopologyGpuSet nvmlSystemRegisterEvents
        nvmlSystemSetConfComputeGpusReadyState nvmlSystemSetConfComputeKeyRotationThresholdInfo
        nvmlSystemSetNvlinkBwMode nvmlUnitGetDevices nvmlUnitGetFanSpeedInfo nvmlUnitGetHandleByIndex
        nvmlUnitGetLedState nvmlUnitGetPsuInfo nvmlUnitGetTemperature nvmlUnitGetUnitInfo nvmlUnitSetLedState
        nvmlVgpuInstanceClearAccountingPids nvmlVgpuInstanceGetAccountingMode nvmlVgpuInstanceGetAccountingPids
        nvmlVgpuInstanceGetAccountingStats nvmlVgpuInstanceGetEccMode nvmlVgpuInstanceGetEncoderCapacity
        nvmlVgpuInstanceGetEncoderSessions nvmlVgpuInstanceGetEncoderStats nvmlVgpuInstanceGetFBCSessions
        nvmlVgpuInstanceGetFBCStats nvmlVgpuInstanceGetFbUsage nvmlVgpuInstanceGetFrameRateLimit
        nvmlVgpuInstanceGetGpuInstanceId nvmlVgpuInstanceGetGpuPciId nvmlVgpuInstanceGetLicenseInfo
        nvmlVgpuInstanceGetLicenseInfo_v2 nvmlVgpuInstanceGetLicenseStatus nvmlVgpuInstanceGetMdevUUID
        nvmlVgpuInstanceGetMetadata nvmlVgpuInstanceGetPlacementId nvmlVgpuInstanceGetRuntimeStateSize
        nvmlVgpuInstanceGetType nvmlVgpuInstanceGetUUID nvmlVgpuInstanceGetVmDriverVersion
        nvmlVgpuInstanceGetVmID nvmlVgpuInstanceSetEncoderCapacity nvmlVgpuTypeGetBAR1Info
        nvmlVgpuTypeGetCapabilities nvmlVgpuTypeGetClass nvmlVgpuTypeGetDeviceID nvmlVgpuTypeGetFbReservation
        nvmlVgpuTypeGetFrameRateLimit nvmlVgpuTypeGetFramebufferSize nvmlVgpuTypeGetGpuInstanceProfileId
        nvmlVgpuTypeGetGspHeapSize nvmlVgpuTypeGetLicense nvmlVgpuTypeGetMaxInstances
        nvmlVgpuTypeGetMaxInstancesPerGpuInstance nvmlVgpuTypeGetMaxInstancesPerVm nvmlVgpuTypeGetName
        nvmlVgpuTypeGetNumDisplayHeads nvmlVgpuTypeGetResolution
    } } };
}

/* What libaxcl_rt.so exports: the vendor's names, signatures, numbers and error codes, rewritten
 * from the facts (facts/ax650.md, sections 2.5, 2.6, 4.4 and 4.5). */
#ifndef VIRTUAL_AX650_AXCL_H
#define VIRTUAL_AX650_AXCL_H

#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

typedef int32_t axclError;
typedef void *axclrtContext;
typedef void *axclrtStream;
typedef void *axclrtEngineIOInfo;
typedef void *axclrtEngineIO;
typedef int axclrtMemMallocPolicy;
typedef int axclrtMemcpyKind;
typedef int axclrtEngineVNpuKind;
typedef int axclrtEngineDataType;
typedef int axclrtEngineDataLayout;

enum { HOST_TO_HOST, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE };
enum { TYPE_UINT32 = 8, TYPE_BF16 = 14 };

typedef struct {
    uint32_t num;
    int32_t devices[256];
} axclrtDeviceList;

typedef struct {
    int32_t dimCount;
    int32_t dims[32];
} axclrtEngineIODims;

typedef struct {
    char swVersion[64];
    uint64_t uid;
    uint32_t pciDomain, pciBusID, pciDeviceID;
    int32_t temperature;
    uint32_t totalMemSize, freeMemSize, totalCmmSize, freeCmmSize;
    uint32_t cpuLoading, npuLoading;
    uint32_t reserved[32];
} axclrtDeviceProperties;

/* 0x80000000 | module 0 | 0x30 | part | error */
#define AXCL_ERR(part, error) ((axclError)(0x80300000u | (part) << 8 | (error)))
#define AXCL_SUCC 0
#define DEVICE_NULL AXCL_ERR(1u, 0x02u)
#define DEVICE_BUSY AXCL_ERR(1u, 0x06u)
#define DEVICE_NO_CONNECT AXCL_ERR(1u, 0x81u)
#define DEVICE_NOT_ACTIVE AXCL_ERR(1u, 0x83u)
#define DEVICE_INVALID_ID AXCL_ERR(1u, 0x84u)
#define DEVICE_NO_ACTIVE AXCL_ERR(1u, 0x85u)
#define CONTEXT_NULL AXCL_ERR(2u, 0x02u)
#define CONTEXT_DESTROY AXCL_ERR(2u, 0x82u)
#define CONTEXT_BIND_THREAD AXCL_ERR(2u, 0x83u)
#define CONTEXT_NO_BIND AXCL_ERR(2u, 0x84u)
#define STREAM_NULL AXCL_ERR(3u, 0x02u)
#define STREAM_CREATE AXCL_ERR(3u, 0x81u)
#define STREAM_DESTROY AXCL_ERR(3u, 0x82u)
#define STREAM_SYNC_TIMEOUT AXCL_ERR(3u, 0x83u)
#define MEMORY_NULL AXCL_ERR(5u, 0x02u)
#define MEMORY_ILLEGAL AXCL_ERR(5u, 0x03u)
#define MEMORY_UNSUPPORT AXCL_ERR(5u, 0x04u)
#define MEMORY_BUSY AXCL_ERR(5u, 0x06u)
#define MEMORY_EXECUTE_FAIL AXCL_ERR(5u, 0x0Cu)
#define MEMORY_NOT_DEVICE AXCL_ERR(5u, 0x81u)
#define CONFIG_ILLEGAL AXCL_ERR(6u, 0x03u)
#define CONFIG_OPEN AXCL_ERR(6u, 0x0Bu)
#define ENGINE_NULL AXCL_ERR(7u, 0x02u)
#define ENGINE_ILLEGAL AXCL_ERR(7u, 0x03u)
#define ENGINE_UNSUPPORT AXCL_ERR(7u, 0x04u)
#define ENGINE_BUSY AXCL_ERR(7u, 0x06u)
#define ENGINE_EXECUTE_FAIL AXCL_ERR(7u, 0x0Cu)
#define ENGINE_INVALID_INDEX AXCL_ERR(7u, 0x81u)

EXPORT axclError axclInit(const char *config);
EXPORT axclError axclFinalize(void);
EXPORT axclError axclrtGetVersion(int32_t *major, int32_t *minor, int32_t *patch);
EXPORT const char *axclrtGetSocName(void);
EXPORT axclError axclrtGetDeviceList(axclrtDeviceList *list);
EXPORT axclError axclrtGetDeviceCount(uint32_t *count);
EXPORT axclError axclrtSetDevice(int32_t device);
EXPORT axclError axclrtResetDevice(int32_t device);
EXPORT axclError axclrtGetDevice(int32_t *device);
EXPORT axclError axclrtGetDeviceProperties(int32_t device, axclrtDeviceProperties *properties);
EXPORT axclError axclrtRebootDevice(int32_t device);
EXPORT axclError axclrtCreateContext(axclrtContext *context, int32_t device);
EXPORT axclError axclrtDestroyContext(axclrtContext context);
EXPORT axclError axclrtSetCurrentContext(axclrtContext context);
EXPORT axclError axclrtGetCurrentContext(axclrtContext *context);
EXPORT axclError axclrtGetDefaultContext(axclrtContext *context, int32_t device);

EXPORT axclError axclrtMalloc(void **memory, size_t size, axclrtMemMallocPolicy policy);
EXPORT axclError axclrtMallocCached(void **memory, size_t size, axclrtMemMallocPolicy policy);
EXPORT axclError axclrtFree(void *memory);
EXPORT axclError axclrtMallocHost(void **memory, size_t size);
EXPORT axclError axclrtFreeHost(void *memory);
EXPORT axclError axclrtMemcpy(void *to, const void *from, size_t count, axclrtMemcpyKind kind);
EXPORT axclError axclrtMemset(void *memory, uint8_t value, size_t count);
EXPORT axclError axclrtMemcmp(const void *left, const void *right, size_t count);
EXPORT axclError axclrtMemFlush(void *memory, size_t size);
EXPORT axclError axclrtMemInvalidate(void *memory, size_t size);

EXPORT axclError axclrtEngineInit(axclrtEngineVNpuKind kind);
EXPORT axclError axclrtEngineGetVNpuKind(axclrtEngineVNpuKind *kind);
EXPORT axclError axclrtEngineFinalize(void);
EXPORT axclError axclrtEngineLoadFromFile(const char *path, uint64_t *model);
EXPORT axclError axclrtEngineLoadFromMem(const void *memory, uint64_t size, uint64_t *model);
EXPORT const char *axclrtEngineGetModelCompilerVersion(uint64_t model);
EXPORT axclError axclrtEngineUnload(uint64_t model);
EXPORT axclError axclrtEngineGetUsage(const char *path, int64_t *sys, int64_t *cmm);
EXPORT axclError axclrtEngineGetUsageFromModelId(uint64_t model, int64_t *sys, int64_t *cmm);
EXPORT axclError axclrtEngineGetIOInfo(uint64_t model, axclrtEngineIOInfo *info);
EXPORT axclError axclrtEngineDestroyIOInfo(axclrtEngineIOInfo info);
EXPORT axclError axclrtEngineGetShapeGroupsCount(axclrtEngineIOInfo info, int32_t *count);
EXPORT uint32_t axclrtEngineGetNumInputs(axclrtEngineIOInfo info);
EXPORT uint32_t axclrtEngineGetNumOutputs(axclrtEngineIOInfo info);
EXPORT uint64_t axclrtEngineGetInputSizeByIndex(axclrtEngineIOInfo, uint32_t group, uint32_t index);
EXPORT uint64_t axclrtEngineGetOutputSizeByIndex(axclrtEngineIOInfo, uint32_t group,
                                                 uint32_t index);
EXPORT axclError axclrtEngineGetInputDims(axclrtEngineIOInfo, uint32_t group, uint32_t index,
                                          axclrtEngineIODims *dims);
EXPORT axclError axclrtEngineGetOutputDims(axclrtEngineIOInfo, uint32_t group, uint32_t index,
                                           axclrtEngineIODims *dims);
EXPORT const char *axclrtEngineGetInputNameByIndex(axclrtEngineIOInfo info, uint32_t index);
EXPORT const char *axclrtEngineGetOutputNameByIndex(axclrtEngineIOInfo info, uint32_t index);
EXPORT int32_t axclrtEngineGetInputIndexByName(axclrtEngineIOInfo info, const char *name);
EXPORT int32_t axclrtEngineGetOutputIndexByName(axclrtEngineIOInfo info, const char *name);
EXPORT int32_t axclrtEngineGetInputDataType(axclrtEngineIOInfo, uint32_t index,
                                            axclrtEngineDataType *type);
EXPORT int32_t axclrtEngineGetOutputDataType(axclrtEngineIOInfo, uint32_t index,
                                             axclrtEngineDataType *type);
EXPORT int32_t axclrtEngineGetInputDataLayout(axclrtEngineIOInfo, uint32_t index,
                                              axclrtEngineDataLayout *layout);
EXPORT int32_t axclrtEngineGetOutputDataLayout(axclrtEngineIOInfo, uint32_t index,
                                               axclrtEngineDataLayout *layout);
EXPORT axclError axclrtEngineCreateIO(axclrtEngineIOInfo info, axclrtEngineIO *io);
EXPORT axclError axclrtEngineDestroyIO(axclrtEngineIO io);
EXPORT axclError axclrtEngineSetInputBufferByIndex(axclrtEngineIO, uint32_t index,
                                                   const void *memory, uint64_t size);
EXPORT axclError axclrtEngineSetOutputBufferByIndex(axclrtEngineIO, uint32_t index,
                                                    const void *memory, uint64_t size);
EXPORT axclError axclrtEngineSetInputBufferByName(axclrtEngineIO, const char *name,
                                                  const void *memory, uint64_t size);
EXPORT axclError axclrtEngineSetOutputBufferByName(axclrtEngineIO, const char *name,
                                                   const void *memory, uint64_t size);
EXPORT axclError axclrtEngineGetInputBufferByIndex(axclrtEngineIO, uint32_t index, void **memory,
                                                   uint64_t *size);
EXPORT axclError axclrtEngineGetOutputBufferByIndex(axclrtEngineIO, uint32_t index, void **memory,
                                                    uint64_t *size);
EXPORT axclError axclrtEngineGetInputBufferByName(axclrtEngineIO, const char *name, void **memory,
                                                  uint64_t *size);
EXPORT axclError axclrtEngineGetOutputBufferByName(axclrtEngineIO, const char *name, void **memory,
                                                   uint64_t *size);
EXPORT axclError axclrtEngineCreateContext(uint64_t model, uint64_t *context);
EXPORT axclError axclrtEngineExecute(uint64_t model, uint64_t context, uint32_t group,
                                     axclrtEngineIO io);

#ifndef WITHOUT_ASYNC
EXPORT axclError axclrtCreateStream(axclrtStream *stream);
EXPORT axclError axclrtDestroyStream(axclrtStream stream);
EXPORT axclError axclrtDestroyStreamForce(axclrtStream stream);
EXPORT axclError axclrtSynchronizeStream(axclrtStream stream);
EXPORT axclError axclrtSynchronizeStreamWithTimeout(axclrtStream stream, int32_t timeout_ms);
EXPORT axclError axclrtMemcpyAsync(void *to, const void *from, size_t count, axclrtMemcpyKind kind,
                                   axclrtStream stream);
EXPORT axclError axclrtMemsetAsync(void *memory, uint8_t value, size_t count, axclrtStream stream);
EXPORT axclError axclrtEngineExecuteAsync(uint64_t model, uint64_t context, uint32_t group,
                                          axclrtEngineIO io, axclrtStream stream);
#endif

/* For tests only; the names can't be mistaken for the vendor's. */
EXPORT void virtual_axcl_power_cycle(void);
EXPORT void virtual_axcl_add_faults(const char *faults);
EXPORT void virtual_axcl_clear_faults(void);
EXPORT void virtual_axcl_release(void);
EXPORT void virtual_axcl_die(void);
EXPORT void virtual_axcl_set_cmm(uint64_t total_bytes);
EXPORT void virtual_axcl_set_temperature(int32_t millidegrees);
EXPORT const char *virtual_axcl_function(uint32_t index);
EXPORT uint64_t virtual_axcl_calls(const char *function);
EXPORT const char *virtual_axcl_counter_name(uint32_t index);
EXPORT uint64_t virtual_axcl_counter(const char *name);
EXPORT uint64_t virtual_axcl_executes(uint32_t group);
EXPORT void virtual_axcl_reset_counters(void);
EXPORT double virtual_axcl_seconds(void);
EXPORT void virtual_axcl_set_cost(double execute_s, double copy_s, double bytes_per_s, int sleep);
EXPORT const char *virtual_axcl_complaint(void);

#endif

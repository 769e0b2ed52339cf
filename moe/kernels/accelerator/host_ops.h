// The operations of ops.h and expert_ops.h as plain loops over host memory; HostAccelerator calls them.
#ifndef CONCLAVE_MOE_KERNELS_ACCELERATOR_HOST_OPS_H_
#define CONCLAVE_MOE_KERNELS_ACCELERATOR_HOST_OPS_H_

#include "moe/kernels/accelerator/attention_ops.h"
#include "moe/kernels/accelerator/expert_ops.h"
#include "moe/kernels/accelerator/ops.h"

namespace conclave::host_ops {

// The value of element (row, col) of matrix `matrix`, its block's scale applied.
float WeightAt(const DeviceWeight& weight, int64_t matrix, int64_t row, int64_t col);

// Each does what the struct of its argument says.
void Embed(const EmbedArgs& args);
void RmsNorm(const NormArgs& args);
void Linear(const LinearArgs& args);
void FillCache(const FillCacheArgs& args);
void RotateQueries(const RotateArgs& args);
void Attend(const AttendArgs& args);
void Ffn(const FfnArgs& args);
void AddToResidual(const AddArgs& args);
void AddAndNormalise(const AddNormArgs& args);
void SelectExperts(const SelectArgs& args);
void DrawTokens(const DrawArgs& args);
void GatherRows(const GatherRowsArgs& args);
void Combine(const CombineArgs& args);
void RunExperts(const ExpertFfnArgs& args);

}  // namespace conclave::host_ops

#endif  // CONCLAVE_MOE_KERNELS_ACCELERATOR_HOST_OPS_H_

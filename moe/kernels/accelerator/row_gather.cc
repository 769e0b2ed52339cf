#include "moe/kernels/accelerator/row_gather.h"

#include <algorithm>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "moe/base/check.h"
#include "moe/base/status_macros.h"

namespace conclave {

absl::StatusOr<std::unique_ptr<RowGather>> RowGather::Create(Accelerator& accelerator, int64_t rows_max) {
  ASSIGN_OR_RETURN(auto stream, accelerator.NewStream());
  ASSIGN_OR_RETURN(auto done, accelerator.NewEvent());
  ASSIGN_OR_RETURN(void* const table, stream->AllocateHost(std::max<int64_t>(rows_max, 1) * int64_t{sizeof(void*)}));
  return absl::WrapUnique(new RowGather(accelerator, std::move(stream), static_cast<const void**>(table), rows_max,
                                        std::move(done)));
}

RowGather::~RowGather() {
  done_->Wait().IgnoreError();  // a device that is lost reads nothing any more
  memory_->FreeHost(addresses_);
}

absl::Span<const void*> RowGather::Addresses() {
  done_->Wait().IgnoreError();
  return absl::MakeSpan(addresses_, static_cast<size_t>(rows_max_));
}

void RowGather::Queue(void* to, int64_t rows, int64_t row_bytes) {
  CONCLAVE_CHECK(rows <= rows_max_) << rows << " rows, sized for " << rows_max_;
  GatherRowsArgs gather;
  gather.from = addresses_;
  gather.to = to;
  gather.rows = rows;
  gather.row_bytes = row_bytes;
  accelerator_.GatherRows(gather);
  accelerator_.Record(*done_);
}

}  // namespace conclave

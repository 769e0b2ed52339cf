#include "moe/transport/ucx/ucx_fetch.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "moe/base/check.h"

namespace conclave {

// UCX would write into memory that is gone.
UcxFetch::~UcxFetch() { CONCLAVE_CHECK(!moving_) << bytes_ << " bytes are on their way"; }

void UcxFetch::Start(UcxWorker& worker, void* offer, void* to, int64_t bytes, std::function<void()> done) {
  CONCLAVE_CHECK(!moving_) << bytes_ << " bytes are on their way";
  moving_ = true;
  bytes_ = bytes;
  done_ = std::move(done);
  ucp_request_param_t parameters = {};
  parameters.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
  parameters.cb.recv_am = &UcxFetch::OnEnd;
  parameters.user_data = this;
  parameters.memory_type = worker.device_memory_type();
  const ucs_status_ptr_t request =
      ucp_am_recv_data_nbx(worker.handle(), offer, to, static_cast<size_t>(bytes), &parameters);
  if (!UCS_PTR_IS_PTR(request)) End(UCS_PTR_STATUS(request), bytes);
}

void UcxFetch::OnEnd(void* request, ucs_status_t status, size_t bytes, void* fetch) {
  ucp_request_free(request);
  static_cast<UcxFetch*>(fetch)->End(status, static_cast<int64_t>(bytes));
}

void UcxFetch::End(ucs_status_t status, int64_t bytes) {
  moving_ = false;
  if (status != UCS_OK) {
    status_ = UcxError("fetching rows", status);
  } else if (bytes != bytes_) {
    status_ = absl::InternalError(absl::StrCat("fetching rows: ", bytes, " bytes of ", bytes_));
  } else {
    status_ = absl::OkStatus();
  }
  if (const auto done = std::exchange(done_, nullptr)) done();
}

}  // namespace conclave

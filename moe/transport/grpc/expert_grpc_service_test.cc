#include "moe/transport/grpc/expert_grpc_service.h"

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "conclave/v1/expert.grpc.pb.h"
#include "conclave/v1/expert.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/transport/fake_expert_handler.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

v1::ExpertRequest Request(uint64_t call_id, int expert) {
  v1::ExpertRequest request;
  request.set_call_id(call_id);
  request.mutable_rows()->set_dtype(v1::DTYPE_F32);
  request.mutable_rows()->add_shape(1);
  request.mutable_rows()->add_shape(2);
  request.mutable_rows()->set_data(std::string(8, '\0'));
  request.add_experts_per_row(1);
  request.add_experts(expert);
  return request;
}

class ExpertGrpcServiceTest : public testing::Test {
 protected:
  ExpertGrpcServiceTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service_->service());
    server_ = builder.BuildAndStart();
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    stub_ = v1::ExpertService::NewStub(
        grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials(), arguments));
  }
  ~ExpertGrpcServiceTest() override {
    handler_.Resume();
    server_->Shutdown(std::chrono::system_clock::now());
  }
  grpc::Status Describe() {
    grpc::ClientContext context;
    v1::DescribeResponse response;
    return stub_->Describe(&context, {}, &response);
  }

  FakeExpertHandler handler_{"fake-0", 2, 4};
  std::unique_ptr<ExpertGrpcService> service_ = ExpertGrpcService::Create();
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::ExpertService::Stub> stub_;
};

TEST_F(ExpertGrpcServiceTest, RefusesCallsUntilItHasAHandlerAndSaysWhy) {
  service_->SetNotReady("loading: 12 of 64 experts");
  EXPECT_EQ(Describe().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(Describe().error_message(), HasSubstr("loading: 12 of 64 experts"));
  service_->SetHandler(&handler_);
  EXPECT_TRUE(Describe().ok());
}

TEST_F(ExpertGrpcServiceTest, ARefusedMessageIsAnsweredAndTheStreamGoesOn) {
  service_->SetHandler(&handler_);
  grpc::ClientContext context;
  const auto stream = stub_->Exchange(&context);
  v1::ExpertReply reply;
  uint64_t call_id = 100;
  for (const int expert : {1, -1, 9, 2}) {
    ASSERT_TRUE(stream->Write(Request(++call_id, expert)));
    ASSERT_TRUE(stream->Read(&reply));
    EXPECT_EQ(reply.call_id(), call_id);
    EXPECT_EQ(reply.status_code() == 0, expert == 1 || expert == 2) << reply.status_message();
  }
  v1::ExpertRequest empty;
  ASSERT_TRUE(stream->Write(empty));
  ASSERT_TRUE(stream->Read(&reply));
  EXPECT_EQ(reply.status_code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(ExpertGrpcServiceTest, DrainAnswersWhatRunsAndEndsWhatIsIdle) {
  service_->SetHandler(&handler_);
  grpc::ClientContext idle_context, busy_context;
  const auto idle = stub_->Exchange(&idle_context);
  v1::ExpertReply reply;
  ASSERT_TRUE(idle->Write(Request(1, 0)));
  ASSERT_TRUE(idle->Read(&reply));
  handler_.Hang();
  const auto busy = stub_->Exchange(&busy_context);
  ASSERT_TRUE(busy->Write(Request(2, 0)));
  while (handler_.runs() < 2) absl::SleepFor(absl::Milliseconds(1));

  std::thread drain([&] { service_->Drain(absl::Now() + absl::Seconds(30)); });
  EXPECT_FALSE(idle->Read(&reply));
  EXPECT_FALSE(idle->Finish().ok());
  EXPECT_EQ(Describe().error_code(), grpc::StatusCode::UNAVAILABLE);
  handler_.Resume();
  ASSERT_TRUE(busy->Read(&reply)) << "a call that runs is answered";
  EXPECT_EQ(reply.call_id(), 2u);
  EXPECT_EQ(reply.status_code(), 0);
  EXPECT_FALSE(busy->Read(&reply));
  EXPECT_EQ(busy->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  drain.join();
}

TEST_F(ExpertGrpcServiceTest, DrainGivesUpAtItsDeadline) {
  service_->SetHandler(&handler_);
  handler_.Hang();
  grpc::ClientContext context;
  const auto stream = stub_->Exchange(&context);
  ASSERT_TRUE(stream->Write(Request(1, 0)));
  while (handler_.runs() < 1) absl::SleepFor(absl::Milliseconds(1));
  const absl::Time begin = absl::Now();
  service_->Drain(begin + absl::Milliseconds(100));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(100));
  handler_.Resume();
}

}  // namespace
}  // namespace conclave
